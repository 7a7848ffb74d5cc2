//! The one place where a panic of a dependency becomes an error.
//!
//! Libraries that read what others wrote, such as the tokenizers', panic on some of it. What runs
//! [`behind`] the wall may: nothing is printed, and the caller gets the message.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// What `read` returns, or the message of its panic. It should not leave this thread: a panic
/// elsewhere is caught where it arrives here, but is printed.
///
/// # Errors
/// It panicked.
pub fn behind<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if DEPTH.get() == 0 {
                usual(info);
            }
        }));
    });
    DEPTH.set(DEPTH.get() + 1);
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| message(&*payload))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        assert_eq!(behind(|| 3), Ok(3));
        assert_eq!(behind(|| panic!("no {}", 5)), Err::<(), _>("no 5".into()));
        let nested = behind(|| behind(|| panic!("inner")).unwrap_err());
        assert_eq!(nested, Ok("inner".into()));
        assert_eq!(DEPTH.get(), 0);
    }
}
