//! The plain allocator of a server: chosen when it starts, the same until it ends.

use std::alloc::{GlobalAlloc, Layout, System};
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use mimalloc::MiMalloc;
use rustix::fs::{Mode, OFlags};

#[cfg(feature = "jemalloc")]
#[path = "jemalloc.rs"]
mod jemalloc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocator {
    System,
    MiMalloc,
    #[cfg(feature = "jemalloc")]
    Jemalloc,
}

impl Allocator {
    const ALL: &[Allocator] = &[
        Allocator::System,
        Allocator::MiMalloc,
        #[cfg(feature = "jemalloc")]
        Allocator::Jemalloc,
    ];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Allocator::System => "system",
            Allocator::MiMalloc => "mimalloc",
            #[cfg(feature = "jemalloc")]
            Allocator::Jemalloc => "jemalloc",
        }
    }

    /// The allocator of this process. Its name is the first word of the command line,
    /// which can be read before anything was allocated.
    #[inline]
    pub(crate) fn chosen() -> Self {
        static CHOSEN: AtomicU8 = AtomicU8::new(u8::MAX);
        let chosen = CHOSEN.load(Ordering::Relaxed);
        if let Some(&chosen) = Self::ALL.get(usize::from(chosen)) {
            return chosen;
        }
        let index = Self::named().unwrap_or(0);
        CHOSEN.store(index as u8, Ordering::Relaxed);
        Self::ALL[index]
    }

    #[cold]
    fn named() -> Option<usize> {
        let file = rustix::fs::open(c"/proc/self/cmdline", OFlags::RDONLY, Mode::empty()).ok()?;
        let mut start = [0; 16];
        rustix::io::read(&file, &mut start).ok()?;
        let word = start.split(|&byte| byte == 0).next()?;
        let mut all = Self::ALL.iter();
        all.position(|known| known.word().as_bytes() == word)
    }
}

impl FromStr for Allocator {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let mut all = Allocator::ALL.iter().copied();
        all.find(|known| known.word() == word).ok_or_else(|| {
            format!("{word}: expected system, mimalloc or, with that feature, jemalloc")
        })
    }
}

/// Whichever this process has.
pub(crate) struct Plain;

#[allow(unsafe_code)]
// SAFETY: passes everything on to one allocator, always the same in a process.
unsafe impl GlobalAlloc for Plain {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Allocator::chosen() {
            Allocator::System => unsafe { System.alloc(layout) },
            Allocator::MiMalloc => unsafe { MiMalloc.alloc(layout) },
            #[cfg(feature = "jemalloc")]
            Allocator::Jemalloc => unsafe { jemalloc::Jemalloc.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Allocator::chosen() {
            Allocator::System => unsafe { System.alloc_zeroed(layout) },
            Allocator::MiMalloc => unsafe { MiMalloc.alloc_zeroed(layout) },
            #[cfg(feature = "jemalloc")]
            Allocator::Jemalloc => unsafe { jemalloc::Jemalloc.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match Allocator::chosen() {
            Allocator::System => unsafe { System.dealloc(block, layout) },
            Allocator::MiMalloc => unsafe { MiMalloc.dealloc(block, layout) },
            #[cfg(feature = "jemalloc")]
            Allocator::Jemalloc => unsafe { jemalloc::Jemalloc.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        match Allocator::chosen() {
            Allocator::System => unsafe { System.realloc(block, layout, new_bytes) },
            Allocator::MiMalloc => unsafe { MiMalloc.realloc(block, layout, new_bytes) },
            #[cfg(feature = "jemalloc")]
            Allocator::Jemalloc => unsafe { jemalloc::Jemalloc.realloc(block, layout, new_bytes) },
        }
    }
}
