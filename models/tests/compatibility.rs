//! `docs/compatibility.md` says what the readers do.

mod support;

use ailora_models::closed::compatibility;

#[test]
fn the_page_is_made_of_the_tables() {
    let path = support::fixtures().join("../../docs/compatibility.md");
    let made = compatibility::markdown();
    if std::env::var_os("AILORA_WRITE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page
        .lines()
        .zip(made.lines())
        .find(|(page, made)| page != made);
    assert!(
        page == made,
        "docs/compatibility.md is not what the tables say, first at {differs:?}: \
         AILORA_WRITE=1 cargo test -p ailora-models --test compatibility writes it anew"
    );
}
