//! Durable record of what a Snakepit host has started, and the cleanup after hosts that died.
