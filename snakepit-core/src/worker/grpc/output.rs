//! What a worker logs, record by record into tracing.

use snakepit_proto::v1::{EventsRequest, LogRecord, event};

use super::client::Control;
use crate::id::WorkerId;

/// Hands the worker's log records to tracing until its control connection closes.
pub(super) async fn forward_logs(worker: WorkerId, pid: u32, mut control: Control) {
    let mut events = match control.events(EventsRequest {}).await {
        Ok(events) => events.into_inner(),
        Err(error) => {
            tracing::debug!(%worker, pid, %error, "the worker sends no events");
            return;
        }
    };
    while let Ok(Some(event)) = events.message().await {
        match event.event {
            Some(event::Event::Log(record)) => log(worker, pid, &record),
            Some(event::Event::Dropped(records)) => {
                tracing::warn!(target: "snakepit::python", %worker, pid, records, "log records were dropped");
            }
            None => {}
        }
    }
}

fn log(worker: WorkerId, pid: u32, record: &LogRecord) {
    // A tracing level must be known where it is written, hence one arm for each.
    macro_rules! emit {
        ($level:ident) => {
            tracing::$level!(
                target: "snakepit::python",
                %worker,
                pid,
                logger = record.logger,
                call_id = record.call_id,
                file = record.file,
                line = record.line,
                fields = ?record.fields,
                exception = (!record.exception.is_empty()).then_some(record.exception.as_str()),
                "{}",
                record.message
            )
        };
    }
    match record.level {
        40.. => emit!(error),
        30..40 => emit!(warn),
        20..30 => emit!(info),
        10..20 => emit!(debug),
        0..10 => emit!(trace),
    }
}
