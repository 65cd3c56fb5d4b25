//! What callers send in a storm: scripts of very different sizes, each of which grows
//! in steps and holds its memory while it waits for its host. All from a seed.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

/// MiB that scripts may hold at once: of the 512, the server needs some itself.
pub(crate) const CAPACITY_MIB: usize = 480;
/// What arrives, as a multiple of what could be answered if memory were always full.
const LOAD: f64 = 2.0;
const SEED: u64 = 7;

/// Share of the scripts, and their sizes in MiB.
const SIZES: [(f64, RangeInclusive<usize>); 3] =
    [(0.7, 8..=16), (0.22, 40..=40), (0.08, 120..=120)];
/// From start to end, for a script that is alone.
const SECONDS: (f64, f64) = (1.5, 3.5);
/// Of its size, what a script holds at the end of each quarter of its time.
const SHAPES: [[f64; 4]; 3] = [
    [0.7, 0.8, 0.9, 1.0],
    [0.25, 0.5, 0.75, 1.0],
    // Nobody can tell from its first half what it will need.
    [0.1, 0.1, 1.0, 1.0],
];
/// What the host gives in one answer, at most: between them, a script can be held up.
const PAGE_MIB: f64 = 8.0;

/// What each script begins with. A quarter of what grows is objects, about 550 bytes
/// each, and the rest buffers: filling them takes little time of the processor.
const GROW: &str = "const held = [];
const grow = (mib) => {
  const rows = [];
  for (let i = 0; i < mib * 485; i++)
    rows.push({ id: i, name: 'row ' + i, tags: [i, String(i)], at: { x: i, y: -i } });
  held.push(rows, new Uint8Array(mib * 786432).fill(1));
};
";

#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Since the storm began.
    pub(crate) at: Duration,
    mib: usize,
    seconds: f64,
    shape: [f64; 4],
}

impl Script {
    /// Its size by its time when it is alone.
    pub(crate) fn mib_seconds(&self) -> f64 {
        self.mib as f64 * self.seconds
    }

    pub(crate) fn code(&self) -> String {
        let mut code = GROW.to_owned();
        let mut held = 0.0;
        for share in self.shape {
            let more_mib = (share - held) * self.mib as f64;
            let pages = (more_mib / PAGE_MIB).ceil().max(1.0);
            let milliseconds = self.seconds * 1000.0 / 4.0 / pages;
            let _ = writeln!(
                code,
                "for (let page = 0; page < {pages}; page++) {{
  grow({:.2});
  await host.fetch({milliseconds:.0});
}}",
                more_mib / pages
            );
            held = share;
        }
        code.push_str("held.length");
        code
    }
}

/// Those of `seconds`, in the order in which they are sent.
pub(crate) fn scripts(seconds: u64) -> Vec<Script> {
    let mut rng = Rng::with_seed(SEED);
    let mean_seconds = (SECONDS.0 + SECONDS.1) / 2.0;
    let per_second = LOAD * CAPACITY_MIB as f64 / (mean_mib() * mean_seconds);
    let mut scripts = Vec::new();
    let mut at = 0.0;
    loop {
        at -= (1.0 - rng.f64()).ln() / per_second;
        if at >= seconds as f64 {
            return scripts;
        }
        scripts.push(Script {
            at: Duration::from_secs_f64(at),
            mib: size(&mut rng),
            seconds: SECONDS.0 + rng.f64() * (SECONDS.1 - SECONDS.0),
            shape: SHAPES[rng.usize(..SHAPES.len())],
        });
    }
}

fn size(rng: &mut Rng) -> usize {
    let mut left = rng.f64();
    for (share, sizes) in SIZES {
        left -= share;
        if left < 0.0 {
            return rng.usize(sizes);
        }
    }
    largest_mib()
}

pub(crate) fn largest_mib() -> usize {
    let ends = SIZES.iter().map(|(_, sizes)| *sizes.end());
    ends.max().unwrap_or_default()
}

pub(crate) fn mean_mib() -> f64 {
    let middle = |sizes: &RangeInclusive<usize>| (sizes.start() + sizes.end()) as f64 / 2.0;
    SIZES
        .iter()
        .map(|(share, sizes)| share * middle(sizes))
        .sum()
}
