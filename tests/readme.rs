//! The README's library example is a real program, and it runs.

mod quickstart {
    include!("../examples/quickstart.rs");

    #[test]
    fn the_readme_shows_the_quickstart_example_and_it_runs() {
        let readme = include_str!("../README.md");
        let example = include_str!("../examples/quickstart.rs");
        assert!(
            readme.contains(example),
            "README.md does not show examples/quickstart.rs as it is"
        );
        main().unwrap();
    }
}
