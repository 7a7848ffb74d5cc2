//! A fusion drawn.
use super::Explained;
impl Explained {
    /// Both forms.
    pub fn svg(&self) -> String {
        String::new()
    }
}
