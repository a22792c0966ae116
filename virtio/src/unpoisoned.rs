//! Locks without poisoning.

use std::sync::{LockResult, PoisonError};

/// What a lock, or a wait on a condition variable, gives where a panic ends the process:
/// no thread can find a lock poisoned by another.
pub trait Unpoisoned<T> {
    /// The guard, also from a poisoned lock.
    fn unpoisoned(self) -> T;
}

impl<T> Unpoisoned<T> for LockResult<T> {
    fn unpoisoned(self) -> T {
        self.unwrap_or_else(PoisonError::into_inner)
    }
}
