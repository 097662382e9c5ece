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

#[test]
fn the_guide_shows_the_custom_backend_as_it_is() {
    let guide = include_str!("../docs/guide/write-a-backend.md");
    let example = include_str!("../examples/custom_backend/launcher.rs");
    let (_, code) = example.split_once("\n\n").unwrap_or_default();
    assert!(
        !code.is_empty() && guide.contains(code),
        "docs/guide/write-a-backend.md does not show examples/custom_backend/launcher.rs as it is"
    );
}
