//! A channel whose socket is full needs a descriptor to learn when it is not. Alone in its process: it takes them all.

use std::{fs::File, io::Read as _, os::unix::net::UnixStream, time::Duration};

use snakepit_proto::stream::{ChannelStream, Coalesced};
use tokio::io::AsyncWriteExt as _;

const TOTAL: usize = 2 * 1024 * 1024;

#[tokio::test]
async fn a_full_channel_goes_on_when_no_descriptor_is_to_be_had() {
    for piece in [1000, 30_000, TOTAL] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut stream, output) = ChannelStream::new(ours).unwrap();
        let mut taken = Vec::new();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let low = rustix::process::Rlimit {
            current: Some(64),
            ..limit
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, low).unwrap();
        while let Ok(file) = File::open("/dev/null") {
            taken.push(file);
        }
        let reader = std::thread::spawn(move || {
            // Only when the socket is full.
            std::thread::sleep(Duration::from_millis(100));
            let mut received = Vec::new();
            theirs.read_to_end(&mut received).map(|_| received.len())
        });
        let connection = Box::pin(async move {
            for piece in vec![7; TOTAL].chunks(piece) {
                stream.write_all(piece).await?;
            }
            stream.shutdown().await
        });
        let sent = tokio::time::timeout(Duration::from_secs(20), Coalesced::new(connection, output)).await;
        sent.expect("it hangs").expect("it fails");
        assert_eq!(reader.join().unwrap().unwrap(), TOTAL);
        drop(taken);
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    }
}
