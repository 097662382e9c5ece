//! What comes over a socket of calls: any bytes, in any pieces, are the messages that they spell, and then an error or the end.

#![no_main]

use std::{
    future::poll_fn,
    io::{ErrorKind, Write as _},
    os::unix::net::UnixStream,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use snakepit_proto::{
    frames::{FrameReader, MAX_LEN, PREFIX, split},
    v1::CallRequest,
};

#[derive(Arbitrary, Debug)]
enum Part {
    /// A message with arguments of so many bytes.
    Whole(u64, u32),
    Any(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Case {
    parts: Vec<Part>,
    pieces: Vec<u16>,
}

/// The most that is sent: more than is read ahead.
const MOST: usize = 200_000;

fn spelled(parts: Vec<Part>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        match part {
            Part::Whole(call_id, len) => {
                let args = vec![call_id as u8; len as usize % 100_000].into();
                let request = CallRequest {
                    call_id,
                    args,
                    ..CallRequest::default()
                };
                bytes.push(0);
                bytes.extend((request.encoded_len() as u32).to_be_bytes());
                request.encode(&mut bytes).expect("a vector has room");
            }
            Part::Any(any) => bytes.extend(any),
        }
    }
    bytes.truncate(MOST);
    bytes
}

/// What the bytes say, read at leisure; and what comes behind the messages.
fn read(mut bytes: &[u8]) -> (Vec<CallRequest>, Option<ErrorKind>) {
    let mut messages = Vec::new();
    loop {
        let Some((&[flag, len @ ..], rest)) = bytes.split_first_chunk::<PREFIX>() else {
            return (messages, (!bytes.is_empty()).then_some(ErrorKind::UnexpectedEof));
        };
        let len = u32::from_be_bytes(len) as usize;
        if flag != 0 || len > MAX_LEN {
            return (messages, Some(ErrorKind::InvalidData));
        }
        let Some((message, rest)) = rest.split_at_checked(len) else {
            return (messages, Some(ErrorKind::UnexpectedEof));
        };
        let Ok(message) = CallRequest::decode(message) else {
            return (messages, Some(ErrorKind::InvalidData));
        };
        messages.push(message);
        bytes = rest;
    }
}

/// What the reader has so far; whether it goes on.
fn take(
    reader: &mut FrameReader,
    cx: &mut std::task::Context<'_>,
    messages: &mut Vec<CallRequest>,
) -> Option<Option<ErrorKind>> {
    loop {
        match reader.poll_next(cx) {
            std::task::Poll::Ready(Ok(Some(message))) => messages.push(message),
            std::task::Poll::Ready(Ok(None)) => return Some(None),
            std::task::Poll::Ready(Err(error)) => return Some(Some(error.kind())),
            std::task::Poll::Pending => return None,
        }
    }
}

fuzz_target!(|case: Case| {
    let bytes = spelled(case.parts);
    let (ours, mut theirs) = UnixStream::pair().expect("a socket");
    theirs.set_nonblocking(true).expect("a socket");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let (mut messages, mut end) = (Vec::new(), None);
    runtime.block_on(async {
        let (mut reader, _) = split(ours).expect("a socket");
        let mut left = &bytes[..];
        let mut pieces = case.pieces.iter().map(|piece| usize::from(*piece) + 1).cycle();
        while end.is_none() && !left.is_empty() {
            let piece = &left[..left.len().min(pieces.next().unwrap_or(MOST))];
            // What a full socket does not take comes with the next one.
            left = &left[theirs.write(piece).unwrap_or(0)..];
            end = poll_fn(|cx| take(&mut reader, cx, &mut messages).into()).await;
            tokio::task::yield_now().await;
        }
        drop(theirs);
        if end.is_none() {
            end = Some(
                poll_fn(|cx| match take(&mut reader, cx, &mut messages) {
                    Some(end) => std::task::Poll::Ready(end),
                    None => std::task::Poll::Pending,
                })
                .await,
            );
        }
    });
    let (expected, behind) = read(&bytes);
    assert_eq!((messages, end.flatten()), (expected, behind));
});
