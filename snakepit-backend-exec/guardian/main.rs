//! The guardian of Snakepit's exec backend.

fn main() {}
