//! What a run has to tell, in the order of the document.

mod calls;
mod host;
mod starts;

use crate::{
    block::Block,
    plots,
    record::Record,
    target::{self, Target},
};

/// The promises first, then what could not be measured, then the sections that were, each with its plots.
pub(crate) fn blocks(record: &Record, targets: &[Target]) -> Vec<Block> {
    let mut blocks = vec![Block::from(target::table(targets))];
    let left_out: Vec<_> = record
        .left_out()
        .map(|(name, reason)| format!("`{name}`: {reason}"))
        .collect();
    if !left_out.is_empty() {
        blocks.push(Block::List("Not measured, and why", left_out));
    }
    if record.has("calls/") {
        blocks.extend(plots::calls(record));
        blocks.extend(calls::tables(record).map(Block::from));
    }
    if record.has("ready/") {
        blocks.extend(plots::ready(record));
        blocks.extend(starts::ready(record).map(Block::from));
        blocks.extend(starts::memory(record).map(Block::from));
    }
    if record.has("recovery/") {
        blocks.push(starts::recovery(record).into());
    }
    if record.has("idle/") || record.has("dispatch/") {
        blocks.push(host::table(record).into());
    }
    blocks
}
