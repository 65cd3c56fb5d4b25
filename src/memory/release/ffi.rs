//! What the allocators offer in C.
#![allow(unsafe_code)]

/// What the process has allocated and not freed; `None`: its allocator does not say.
pub(crate) fn allocated_bytes() -> Option<u64> {
    #[cfg(feature = "jemalloc")]
    if jemalloc::is_used() {
        return jemalloc::allocated_bytes();
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return glibc::allocated_bytes();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

/// What the process's allocator has of the system.
pub(super) struct Obtained {
    pub(super) bytes: u64,
    /// What of that is not allocated, resident or not.
    pub(super) kept_bytes: u64,
}

/// `None`: it does not say.
pub(super) fn obtained() -> Option<Obtained> {
    #[cfg(feature = "jemalloc")]
    if jemalloc::is_used() {
        return None;
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return glibc::obtained();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

/// It says.
pub(super) fn tells() -> bool {
    #[cfg(feature = "jemalloc")]
    if jemalloc::is_used() {
        return true;
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return glibc::tells();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// What this thread has allocated less what it has freed; `None`: the allocator does not
/// say it of a thread.
pub(crate) fn thread_bytes() -> Option<i64> {
    #[cfg(feature = "jemalloc")]
    return jemalloc::is_used().then(jemalloc::thread_bytes).flatten();
    #[cfg(not(feature = "jemalloc"))]
    None
}

/// Allocates, and asks what came of it: more than once, since others may free or allocate as
/// much meanwhile.
#[cfg(any(feature = "jemalloc", all(target_os = "linux", target_env = "gnu")))]
fn shows_what_is_allocated(in_use: impl Fn() -> u64) -> bool {
    const BYTES: u64 = 1 << 20;
    let shows = || {
        let before = in_use();
        let probe = std::hint::black_box(vec![0_u8; BYTES as usize]);
        let with = in_use();
        drop(probe);
        let after = in_use();
        with.saturating_sub(before) >= BYTES / 2 && with.saturating_sub(after) >= BYTES / 2
    };
    (0..5).filter(|_| shows()).count() >= 3
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::sync::OnceLock;

    use libc::mallinfo2;

    /// Of glibc 2.33 and newer.
    type Ask = unsafe extern "C" fn() -> mallinfo2;

    /// What the process has allocated of glibc and not freed; `None`: glibc is too old to
    /// say, or another allocator does the work.
    pub(in crate::memory::release) fn allocated_bytes() -> Option<u64> {
        ask().map(in_use)
    }

    pub(in crate::memory::release) fn obtained() -> Option<super::Obtained> {
        let info = info(ask()?);
        Some(super::Obtained {
            bytes: (info.arena + info.hblkhd) as u64,
            kept_bytes: info.fordblks as u64,
        })
    }

    pub(in crate::memory::release) fn tells() -> bool {
        ask().is_some()
    }

    fn ask() -> Option<Ask> {
        static ASK: OnceLock<Option<Ask>> = OnceLock::new();
        *ASK.get_or_init(|| find().filter(|&ask| super::shows_what_is_allocated(|| in_use(ask))))
    }

    #[cfg(not(all(
        target_feature = "crt-static",
        any(target_arch = "x86_64", target_arch = "aarch64")
    )))]
    fn find() -> Option<Ask> {
        // SAFETY: a name that ends with a zero.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mallinfo2".as_ptr()) };
        // SAFETY: the function of that name has this type since there is one.
        unsafe { std::mem::transmute::<*mut libc::c_void, Option<Ask>>(found) }
    }

    // What is linked statically has no names to look for. The weak one is zero where glibc
    // is older or another allocator stands in its place.
    #[cfg(all(
        target_feature = "crt-static",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    std::arch::global_asm!(
        ".pushsection .data.rel.ro, \"aw\"",
        ".weak mallinfo2",
        ".weak tower_memory_guard_mallinfo2",
        ".hidden tower_memory_guard_mallinfo2",
        ".balign 8",
        "tower_memory_guard_mallinfo2:",
        ".8byte mallinfo2",
        ".popsection",
    );

    #[cfg(all(
        target_feature = "crt-static",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    fn find() -> Option<Ask> {
        unsafe extern "C" {
            static tower_memory_guard_mallinfo2: Option<Ask>;
        }
        // SAFETY: defined above, and never written.
        unsafe { tower_memory_guard_mallinfo2 }
    }

    fn in_use(ask: Ask) -> u64 {
        let info = info(ask);
        (info.uordblks + info.hblkhd) as u64
    }

    fn info(ask: Ask) -> mallinfo2 {
        // SAFETY: may be called at any time from any thread.
        unsafe { ask() }
    }
}

/// Asks every allocator at hand to give back what it keeps.
pub(super) fn give_back() {
    // The free pages of all arenas. SAFETY: may be called at any time from any thread.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0)
    };
    #[cfg(feature = "jemalloc")]
    jemalloc::purge();
}

#[cfg(feature = "jemalloc")]
mod jemalloc {
    use std::cell::Cell;
    use std::ffi::{CStr, c_void};
    use std::ptr::{null, null_mut};
    use std::sync::OnceLock;

    use tikv_jemalloc_sys::mallctl;

    /// Where it counts what a thread has allocated, and what it has freed, ever.
    #[derive(Clone, Copy)]
    struct Counts {
        allocated: *const u64,
        freed: *const u64,
    }

    thread_local! {
        static COUNTS: Cell<Option<Counts>> = const { Cell::new(None) };
    }

    /// It is the process's allocator: found out once.
    pub(super) fn is_used() -> bool {
        static IS_USED: OnceLock<bool> = OnceLock::new();
        *IS_USED.get_or_init(|| super::shows_what_is_allocated(|| allocated_bytes().unwrap_or(0)))
    }

    pub(super) fn allocated_bytes() -> Option<u64> {
        // What it tells is as old as this.
        let mut epoch = 1_u64;
        let size = &mut size_of::<u64>();
        let epoch_pointer = (&raw mut epoch).cast::<c_void>();
        // SAFETY: the name ends with a zero; both values are of the type that the control
        // has, which is 64 bits, and live until it returns.
        let failed = unsafe {
            let name = c"epoch".as_ptr();
            mallctl(name, epoch_pointer, size, epoch_pointer, size_of::<u64>())
        };
        (failed == 0)
            .then(|| read(c"stats.allocated", 0_usize))
            .flatten()
            .map(|bytes| bytes as u64)
    }

    /// A few nanoseconds from the second time on.
    pub(super) fn thread_bytes() -> Option<i64> {
        let counts = COUNTS.get().or_else(|| {
            let found = Counts {
                allocated: read(c"thread.allocatedp", null())?,
                freed: read(c"thread.deallocatedp", null())?,
            };
            COUNTS.set(Some(found));
            Some(found)
        })?;
        // SAFETY: where this thread counts, until it ends; nobody else writes there.
        let (allocated, freed) = unsafe { (counts.allocated.read(), counts.freed.read()) };
        Some(allocated.wrapping_sub(freed) as i64)
    }

    /// The value of a control, in the place of one of its type.
    fn read<V: Copy>(name: &CStr, mut value: V) -> Option<V> {
        let mut size = size_of::<V>();
        let pointer = (&raw mut value).cast::<c_void>();
        // SAFETY: the name ends with a zero; jemalloc fails where the size is not the value's,
        // and each control below is asked for in its own type.
        let failed = unsafe { mallctl(name.as_ptr(), pointer, &mut size, null_mut(), 0) };
        (failed == 0).then_some(value)
    }

    pub(super) fn purge() {
        // 4096 stands for all arenas (MALLCTL_ARENAS_ALL).
        let name = c"arena.4096.purge";
        // SAFETY: the name ends with a zero, and this control takes no value.
        unsafe { mallctl(name.as_ptr(), null_mut(), null_mut(), null_mut(), 0) };
    }
}
