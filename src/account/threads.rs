//! The end of a thread, for an allocator.
//!
//! A thread-local with a destructor would do, but where the standard library keeps its list
//! of those itself, registering one from within an allocation aborts the process. The
//! keys of POSIX threads allocate nothing of Rust's.

#[cfg(unix)]
pub(super) use posix::at_end;

/// Nobody can be asked: what a thread has not told when it ends is not known.
#[cfg(not(unix))]
pub(super) fn at_end() {}

#[cfg(unix)]
#[allow(unsafe_code)]
mod posix {
    use std::ffi::c_void;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use libc::{pthread_key_create, pthread_key_delete, pthread_key_t, pthread_setspecific};

    /// The key, one above; 0: there is none yet.
    static KEY: AtomicUsize = AtomicUsize::new(0);

    /// Has [`ends`](crate::running::charge::ends) called when this thread ends.
    pub(in super::super) fn at_end() {
        let Some(key) = key() else {
            return;
        };
        // SAFETY: the key exists. The value is never read: it only has to be there.
        unsafe {
            pthread_setspecific(key, std::ptr::without_provenance(1));
        }
    }

    unsafe extern "C" fn ended(_: *mut c_void) {
        crate::running::charge::ends();
    }

    fn key() -> Option<pthread_key_t> {
        match KEY.load(Ordering::Relaxed) {
            0 => make(),
            above => Some((above - 1) as pthread_key_t),
        }
    }

    #[cold]
    fn make() -> Option<pthread_key_t> {
        let mut key = 0;
        // SAFETY: `key` outlives the call, and `ended` the process.
        if unsafe { pthread_key_create(&raw mut key, Some(ended)) } != 0 {
            return None;
        }
        let above = key as usize + 1;
        match KEY.compare_exchange(0, above, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Some(key),
            Err(first) => {
                // SAFETY: the key is ours, and no thread has a value for it.
                unsafe {
                    pthread_key_delete(key);
                }
                Some((first - 1) as pthread_key_t)
            }
        }
    }
}
