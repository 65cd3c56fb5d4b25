//! What the allocators offer in C.
#![allow(unsafe_code)]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) use glibc::{allocated_bytes, tells};

/// Nobody can be asked.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn tells() -> bool {
    false
}

/// Nobody can be asked.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn allocated_bytes() -> Option<u64> {
    None
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::{c_char, c_void};
    use std::sync::OnceLock;

    /// `struct mallinfo2`, of glibc 2.33 and newer.
    #[repr(C)]
    struct MallInfo {
        arena: usize,
        ordblks: usize,
        smblks: usize,
        hblks: usize,
        hblkhd: usize,
        usmblks: usize,
        fsmblks: usize,
        uordblks: usize,
        fordblks: usize,
        keepcost: usize,
    }

    type Ask = unsafe extern "C" fn() -> MallInfo;

    unsafe extern "C" {
        fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    }

    /// What the process has allocated of glibc and not freed; `None`: glibc is too old to
    /// say, or another allocator does the work.
    pub(in crate::memory::release) fn allocated_bytes() -> Option<u64> {
        ask().map(in_use)
    }

    /// It says.
    pub(in crate::memory::release) fn tells() -> bool {
        ask().is_some()
    }

    fn ask() -> Option<Ask> {
        static ASK: OnceLock<Option<Ask>> = OnceLock::new();
        *ASK.get_or_init(|| find().filter(|&ask| is_used(ask)))
    }

    fn find() -> Option<Ask> {
        // SAFETY: a name that ends with a zero; a null handle stands for the default order.
        let found = unsafe { dlsym(std::ptr::null_mut(), c"mallinfo2".as_ptr()) };
        // SAFETY: the function of that name has this type since there is one.
        (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Ask>(found) })
    }

    fn in_use(ask: Ask) -> u64 {
        // SAFETY: may be called at any time from any thread.
        let info = unsafe { ask() };
        (info.uordblks + info.hblkhd) as u64
    }

    /// Found out once, by allocating.
    fn is_used(ask: Ask) -> bool {
        const BYTES: u64 = 1 << 20;
        let before = in_use(ask);
        let probe = std::hint::black_box(vec![0_u8; BYTES as usize]);
        let shown = in_use(ask).saturating_sub(before);
        drop(probe);
        shown >= BYTES / 2
    }
}

/// Asks every allocator at hand to give back what it keeps.
pub(super) fn give_back() {
    trim();
    purge();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    unsafe extern "C" {
        /// glibc: gives back the free pages of all arenas, keeping `pad` bytes
        /// at the top of each.
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: takes a number and may be called at any time from any thread.
    unsafe { malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(feature = "jemalloc")]
fn purge() {
    // 4096 stands for all arenas (MALLCTL_ARENAS_ALL).
    let name = c"arena.4096.purge";
    // SAFETY: the name ends with a zero, and this control takes no value.
    unsafe {
        tikv_jemalloc_sys::mallctl(
            name.as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        )
    };
}

#[cfg(not(feature = "jemalloc"))]
fn purge() {}
