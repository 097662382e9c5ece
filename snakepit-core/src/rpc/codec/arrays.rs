//! Arrays that a value refers to, while it is decoded.

use std::cell::RefCell;

use crate::arena::Held;

thread_local! {
    static ARRAYS: RefCell<Vec<Option<Held>>> = const { RefCell::new(Vec::new()) };
}

/// Ends the decoding of a value, also by a panic. What nobody took is given back.
struct Until(Vec<Option<Held>>);

impl Drop for Until {
    fn drop(&mut self) {
        ARRAYS.replace(std::mem::take(&mut self.0));
    }
}

/// Decodes a value that refers to these by number.
pub(crate) fn with_arrays<T>(held: Box<[Held]>, decode: impl FnOnce() -> T) -> T {
    let _until = Until(ARRAYS.replace(held.into_iter().map(Some).collect()));
    decode()
}

/// Takes what a reference stands for, once.
pub(crate) fn take_array(number: usize) -> Option<Held> {
    ARRAYS.with_borrow_mut(|arrays| arrays.get_mut(number)?.take())
}
