use std::{future::poll_fn, io::Write as _};

use proptest::prelude::*;

use super::*;
use crate::v1::{CallResponse, call_response::Outcome};

fn answer(call_id: u64, len: usize) -> CallResponse {
    CallResponse {
        call_id,
        outcome: Some(Outcome::Value(vec![call_id as u8; len].into())),
    }
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

async fn next(reader: &mut FrameReader) -> io::Result<Option<CallResponse>> {
    poll_fn(|cx| reader.poll_next(cx)).await
}

fn send(writer: &mut FrameWriter, message: &CallResponse) -> bool {
    match write_ahead(message).unwrap() {
        Some(written) => writer.send_written(written).unwrap(),
        None => writer.send(message).unwrap(),
    }
}

/// The bytes that a writer makes of messages.
fn framed(messages: &[CallResponse]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| frame(message).unwrap())
        .collect()
}

#[tokio::test]
async fn what_one_end_sends_the_other_reads() {
    let (ours, theirs) = pair();
    let (mut reader, _) = split(ours).unwrap();
    let (_, mut writer) = split(theirs.try_clone().unwrap()).unwrap();
    assert!(writer.send(&answer(1, 10)).unwrap());
    assert!(writer.send(&answer(2, 0)).unwrap());
    assert_eq!(next(&mut reader).await.unwrap(), Some(answer(1, 10)));
    assert_eq!(next(&mut reader).await.unwrap(), Some(answer(2, 0)));
    drop((writer, theirs));
    assert_eq!(next(&mut reader).await.unwrap(), None);
    assert_eq!(next(&mut reader).await.unwrap(), None, "the end stays the end");
}

#[tokio::test]
async fn messages_that_no_socket_holds_pass_in_order_both_ways() {
    let (ours, theirs) = pair();
    let lens = [3_000_000, 0, 70_000, 1, 65_536, 65_531, 65_530, 5_000_000, 12];
    let end = async |socket| {
        let (mut reader, mut writer) = split(socket).unwrap();
        let read = async {
            for (id, len) in (0..).zip(lens) {
                assert_eq!(next(&mut reader).await.unwrap(), Some(answer(id, len)));
            }
        };
        let written = async {
            for (id, len) in (0..).zip(lens) {
                send(&mut writer, &answer(id, len));
            }
            poll_fn(|cx| writer.poll_sent(cx)).await.unwrap();
        };
        tokio::join!(read, written);
    };
    tokio::join!(end(ours), end(theirs));
}

#[tokio::test]
async fn what_is_no_message_is_told() {
    for (bytes, why) in [
        (&[1, 0, 0, 0, 0][..], "flag 1"),
        (&[0, 0xff, 0xff, 0xff, 0xff][..], "4294967295 bytes"),
        (&[0, 0, 0, 0, 2, 0x0a, 0x7f][..], "rotobuf"),
    ] {
        let (ours, mut theirs) = pair();
        theirs.write_all(bytes).unwrap();
        let (mut reader, _) = split(ours).unwrap();
        let error = next(&mut reader).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(why), "{error}");
    }
    for cut in [3, 7, 70_000] {
        let (ours, mut theirs) = pair();
        let bytes = framed(&[answer(1, 100_000)]);
        let writing = std::thread::spawn(move || theirs.write_all(&bytes[..cut]));
        let (mut reader, _) = split(ours).unwrap();
        let error = next(&mut reader).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        writing.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_is_an_error() {
    let (ours, theirs) = pair();
    let (_, mut writer) = split(ours).unwrap();
    drop(theirs);
    let error = writer.send(&answer(1, 1)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn what_has_been_sent_is_forgotten_though_there_is_always_more() {
    const ROUNDS: u64 = 200;
    let (ours, theirs) = pair();
    let (_, mut writer) = split(ours).unwrap();
    let (mut reader, _) = split(theirs).unwrap();
    let most = 300_000;
    assert!(!send(&mut writer, &answer(0, most)));
    for id in 1..ROUNDS {
        // The next one comes before the one before it has left.
        assert!(!send(&mut writer, &answer(id, most)));
        let read = tokio::select! {
            biased;
            sent = poll_fn(|cx| writer.poll_sent(cx)) => panic!("{sent:?}"),
            read = next(&mut reader) => read.unwrap(),
        };
        assert_eq!(read.unwrap().call_id, id - 1);
        let kept = writer.outbox.bytes.capacity() + writer.behind.iter().map(Vec::capacity).sum::<usize>();
        assert!(kept < 3 * most, "{kept} bytes after {id} messages");
    }
}

#[tokio::test]
async fn much_is_sent_in_several_turns() {
    let (ours, theirs) = pair();
    let (_, mut writer) = split(ours).unwrap();
    let reading = std::thread::spawn(move || std::io::copy(&mut &theirs, &mut std::io::sink()).unwrap());
    let total = 20 * AT_ONCE;
    send(&mut writer, &answer(1, total));
    let mut turns = 0;
    poll_fn(|cx| {
        turns += 1;
        writer.poll_sent(cx)
    })
    .await
    .unwrap();
    assert!(turns >= 10, "{turns}");
    drop(writer);
    assert!(reading.join().unwrap() > total as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever the kernel cuts the stream.
    #[test]
    fn messages_are_whole_however_their_bytes_come(
        lens in prop::collection::vec(prop_oneof![0_usize..300, 65_000_usize..66_000, 100_000_usize..150_000], 1..6),
        cuts in prop::collection::vec(1_usize..70_000, 1..8),
    ) {
        let messages: Vec<_> = (0..).zip(&lens).map(|(id, &len)| answer(id, len)).collect();
        let mut bytes = &framed(&messages)[..];
        let (ours, mut theirs) = pair();
        theirs.set_nonblocking(true).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let (mut reader, _) = split(ours).unwrap();
            let mut read = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while read.len() < messages.len() {
                let piece = &bytes[..bytes.len().min(*cuts.next().unwrap())];
                if let Ok(written) = theirs.write(piece) {
                    bytes = &bytes[written..];
                }
                while let Some(message) = poll_fn(|cx| {
                    Poll::Ready(match reader.poll_next::<CallResponse>(cx) {
                        Poll::Ready(message) => message.unwrap(),
                        Poll::Pending => None,
                    })
                }).await {
                    read.push(message);
                }
                tokio::task::yield_now().await;
            }
            assert_eq!(read, messages);
        });
    }
}

#[tokio::test]
async fn what_has_come_is_found_by_looking_and_taken_by_polling() {
    let (ours, mut theirs) = pair();
    let (mut reader, _) = split(ours).unwrap();
    assert!(!reader.look());
    let bytes = framed(&[answer(1, 10), answer(2, 100_000)]);
    let (first, rest) = bytes.split_at(7);
    theirs.write_all(first).unwrap();
    assert!(reader.look(), "a part of a message");
    theirs.write_all(rest).unwrap();
    assert_eq!(next(&mut reader).await.unwrap(), Some(answer(1, 10)));
    assert!(reader.look(), "what was read ahead");
    assert_eq!(next(&mut reader).await.unwrap(), Some(answer(2, 100_000)));
    assert!(!reader.look());
    drop(theirs);
    assert!(!reader.look(), "the end is told to who polls");
    assert_eq!(next(&mut reader).await.unwrap(), None);
}
