//! What a sample of usage costs, against a bare `pread` of the same file.
//!
//! Far from the limit an admission takes no sample; near it, each takes one of
//! the usage alone. The difference between `admission near the limit` and
//! `admission far from it` is a sample: reading, deciding and publishing.
//!
//! `cargo bench --bench sampling`

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("there is nothing to sample on this system");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::File;
    use std::hint::black_box;
    use std::os::unix::fs::FileExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use criterion::Criterion;
    use tower_memory_guard::{Guard, MemoryGuardLayer};

    const MIB: u64 = 1 << 20;

    /// A control group of this process's own; files that look like one where
    /// none can be made.
    enum Group {
        Real(PathBuf),
        Files(tempfile::TempDir),
    }

    impl Group {
        fn new() -> Self {
            Self::real().unwrap_or_else(|| {
                let files = tempfile::tempdir().expect("a temporary directory");
                let write = |name, text| std::fs::write(files.path().join(name), text);
                write("memory.current", "83000000\n").expect("a file");
                write("memory.max", "100000000\n").expect("a file");
                write("memory.stat", "anon 83000000\nfile 0\n").expect("a file");
                Group::Files(files)
            })
        }

        fn real() -> Option<Self> {
            let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
            let own = groups
                .lines()
                .find_map(|line| line.split_once(":memory:"))?
                .1;
            let name = format!("memory-guard-bench-{}", std::process::id());
            let top = Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/'));
            let directory = top.join(name);
            std::fs::create_dir(&directory).ok()?;
            let group = Group::Real(directory.clone());
            std::fs::write(
                directory.join("cgroup.procs"),
                std::process::id().to_string(),
            )
            .ok()?;
            std::fs::write(
                directory.join("memory.limit_in_bytes"),
                (2048 * MIB).to_string(),
            )
            .ok()?;
            Some(group)
        }

        fn directory(&self) -> &Path {
            match self {
                Group::Real(directory) => directory,
                Group::Files(files) => files.path(),
            }
        }

        fn usage_file(&self) -> PathBuf {
            let v1 = self.directory().join("memory.usage_in_bytes");
            if v1.exists() {
                v1
            } else {
                self.directory().join("memory.current")
            }
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            if let Group::Real(directory) = self {
                let procs = directory.parent().map(|parent| parent.join("cgroup.procs"));
                let back = procs.map(|procs| std::fs::write(procs, std::process::id().to_string()));
                if back.is_some_and(|moved| moved.is_ok()) {
                    let _ = std::fs::remove_dir(directory);
                }
            }
        }
    }

    fn guard(group: &Group, limit_bytes: u64, request_bytes: u64) -> Guard {
        let builder = MemoryGuardLayer::builder()
            .cgroup_path(group.directory())
            .memory_limit_bytes(limit_bytes)
            .max_concurrent(1000)
            .estimated_bytes_per_request(request_bytes)
            // Only admissions sample.
            .check_interval(Duration::from_secs(3600));
        builder.build().expect("good settings").guard().clone()
    }

    pub(crate) fn main() {
        let group = Group::new();
        // Held, and touched, so that the usage is far above its noise.
        let held = vec![1_u8; 400 << 20];
        black_box(&held);
        let file = File::open(group.usage_file()).expect("the usage");
        println!("usage is read from {}", group.usage_file().display());

        let mut criterion = Criterion::default()
            .sample_size(60)
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2))
            .configure_from_args();
        criterion.bench_function("bare pread", |bencher| {
            let mut buffer = [0; 32];
            bencher.iter(|| black_box(file.read_at(&mut buffer, 0).expect("the usage")));
        });

        let far = guard(&group, 1800 * MIB, 1024);
        let admit = |guard: &Guard| drop(black_box(guard.try_acquire(1024).expect("room")));
        criterion.bench_function("admission far from the limit", |bencher| {
            bencher.iter(|| admit(&far));
        });
        far.close();
        // The sampler's thread takes it off its list.
        std::thread::sleep(Duration::from_millis(100));

        // At 81 %, the rest is less than four requests.
        let used = (far.stats().memory_sys_mib * MIB as f64) as u64;
        let near = guard(&group, used * 100 / 81, used / 20);
        criterion.bench_function("admission near the limit", |bencher| {
            bencher.iter(|| admit(&near));
        });
        near.close();
        criterion.final_summary();
    }
}
