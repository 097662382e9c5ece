//! Lends workers to callers.
