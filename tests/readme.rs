//! The README's library example is `examples/quickstart.rs`, which is compiled and run as a test of its own.

#[test]
fn the_readme_shows_the_quickstart_example_as_it_is() {
    let readme = include_str!("../README.md");
    let example = include_str!("../examples/quickstart.rs");
    assert!(
        readme.contains(example),
        "README.md does not show examples/quickstart.rs as it is"
    );
}
