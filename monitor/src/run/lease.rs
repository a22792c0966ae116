//! What the threads of a VM use until the process ends, and what is given back
//! if the VM is not started after all.

use std::mem;
use std::ptr::NonNull;

/// Something on loan to devices and threads; dropped, it is gone.
pub(super) struct Lease<T: 'static> {
    it: NonNull<T>,
    /// What comes before it is freed.
    last: fn(&T),
}

impl<T> Lease<T> {
    /// Lends `it`, of which `last` gives back what its own drop does not.
    ///
    /// # Safety
    /// Nothing that came from [`get`](Self::get) may be used once this is dropped.
    pub(super) unsafe fn new(it: T, last: fn(&T)) -> Self {
        let it = NonNull::from(Box::leak(Box::new(it)));
        Self { it, last }
    }

    pub(super) fn get(&self) -> &'static T {
        // SAFETY: it is live until this is dropped; the creator guarantees that there is no
        // later use.
        unsafe { self.it.as_ref() }
    }

    /// It is used until the process ends.
    pub(super) fn keep(self) {
        mem::forget(self);
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and has no users left.
        let it = unsafe { Box::from_raw(self.it.as_ptr()) };
        (self.last)(&it);
    }
}
