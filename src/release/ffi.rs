//! What the allocators offer in C.
#![allow(unsafe_code)]

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
