use bytes::Bytes;
use rustix::io::{pread, pwrite};
use snakepit_proto::{
    arena::{GRAIN, Layout},
    v1::ValueInArena,
};

use super::*;
use crate::rpc::{MAX_MESSAGE_LEN, NdArray, SharedArray, Value, codec};

/// An arena whose worker is the test.
struct Pair {
    arena: Arc<Arena>,
    fd: OwnedFd,
    layout: Layout,
}

impl Pair {
    fn new(half: u64) -> Self {
        let (arena, fd) = Arena::new(half).unwrap();
        let layout = Layout::new(half).unwrap();
        let arena = Arc::new(arena);
        Self { arena, fd, layout }
    }

    fn set_holds(&self, side: Side, number: u32, holds: u32) {
        let at = self.layout.counter(side, number).unwrap();
        pwrite(&self.fd, &holds.to_ne_bytes(), at).unwrap();
    }

    fn holds(&self, side: Side, number: u32) -> u32 {
        let mut bytes = [0; 4];
        pread(&self.fd, &mut bytes, self.layout.counter(side, number).unwrap()).unwrap();
        u32::from_ne_bytes(bytes)
    }

    fn content(&self, block: &Block) -> Vec<u8> {
        let mut bytes = vec![0; block.len as usize];
        pread(&self.fd, &mut bytes, block.offset).unwrap();
        bytes
    }

    /// Bytes of the worker's half, with a hold for the host.
    fn result(&self, content: &[u8]) -> Block {
        let offset = self.layout.half(Side::Worker).start;
        pwrite(&self.fd, content, offset).unwrap();
        self.set_holds(Side::Worker, 5, 1);
        Block {
            number: 5,
            offset,
            len: content.len() as u64,
        }
    }

    fn receive(&self, value: &ValueInArena) -> Result<Received, String> {
        Received::new(&self.arena, value.clone())
    }

    fn take(&self, value: &ValueInArena) -> Result<Bytes, String> {
        self.receive(value)?.inline()
    }

    fn taken(&self) -> u64 {
        self.arena.usage().arguments
    }
}

fn args(parts: &[&[u8]]) -> Encoded {
    let parts: Vec<_> = parts
        .iter()
        .map(|part| Value::Bytes(Bytes::copy_from_slice(part)))
        .collect();
    codec::encode_args_aside(&parts).unwrap()
}

fn large(byte: u8) -> Vec<u8> {
    vec![byte; GRAIN as usize + 1]
}

/// One reference to bytes.
fn refers(block: Block) -> ValueInArena {
    ValueInArena {
        value: Bytes::from_static(&[0xd4, 11, 0]),
        blocks: vec![block],
    }
}

fn bytes_of_value(encoded: &Bytes) -> Vec<u8> {
    match codec::decode(encoded).unwrap() {
        Value::Bytes(bytes) => bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn arguments_are_there_until_the_call_is_over_and_nobody_has_them() {
    let pair = Pair::new(16 * GRAIN);
    let args = args(&[&large(1), b"small", &large(2)]);
    let placed = pair.arena.place(&args, &Encoded::default()).unwrap();
    assert!(placed.blocks.kwargs.is_empty());
    let [first, second] = &placed.blocks.args[..] else {
        panic!("{placed:?}")
    };
    assert_eq!(pair.content(first), large(1));
    assert_eq!(pair.content(second), large(2));
    pair.set_holds(Side::Host, second.number, 1);
    let second = second.number;
    drop(placed);
    assert_eq!(pair.taken(), 2 * GRAIN, "the worker has kept one");
    pair.set_holds(Side::Host, second, 0);
    assert_eq!(pair.taken(), 0);
}

#[test]
fn arguments_that_do_not_all_fit_are_not_placed_and_counted() {
    let pair = Pair::new(2 * GRAIN);
    let too_many = args(&[&large(1), &large(2)]);
    assert!(pair.arena.place(&too_many, &Encoded::default()).is_none());
    assert_eq!((pair.taken(), pair.arena.usage().arguments_fell_back), (0, 1));
    assert!(
        pair.arena
            .place(&args(&[&large(1)]), &Encoded::default())
            .is_some()
    );
}

#[test]
fn a_result_is_copied_out_and_its_hold_given_back() {
    let pair = Pair::new(4 * GRAIN);
    let value = refers(pair.result(b"content"));
    let taken = pair.take(&value).unwrap();
    assert_eq!(pair.holds(Side::Worker, 5), 0);
    // Whatever the worker does with its memory now, what was taken stays as it is.
    pwrite(&pair.fd, b"changed", value.blocks[0].offset).unwrap();
    assert_eq!(bytes_of_value(&taken), b"content");
}

#[test]
fn an_argument_that_comes_back_is_copied_from_where_it_is() {
    let pair = Pair::new(4 * GRAIN);
    let placed = pair
        .arena
        .place(&args(&[&large(9)]), &Encoded::default())
        .unwrap();
    let block = placed.blocks.args[0];
    pair.set_holds(Side::Host, block.number, 1);
    drop(placed);
    let part = Block {
        offset: block.offset + 3,
        len: 5,
        ..block
    };
    assert_eq!(bytes_of_value(&pair.take(&refers(part)).unwrap()), [9; 5]);
    assert_eq!(pair.taken(), 0, "it came with the last hold");
    let why = pair.take(&refers(part)).unwrap_err();
    assert!(why.contains("where no block is"), "{why}");
}

/// `[dtype, shape, 0]` as an array's reference.
fn array_of(block: Block) -> ValueInArena {
    let payload = codec::encode(&("|u1", [block.len], 0)).unwrap();
    let head = [0xc7, payload.len() as u8, 10];
    ValueInArena {
        value: [&head[..], &payload[..]].concat().into(),
        blocks: vec![block],
    }
}

#[test]
fn an_array_stays_where_it_is_until_it_is_dropped() {
    let pair = Pair::new(4 * GRAIN);
    let value = array_of(pair.result(b"0123456789"));
    let array: SharedArray = pair.receive(&value).unwrap().decode().unwrap();
    assert_eq!(
        (array.dtype(), array.shape(), array.len_bytes()),
        ("|u1", &[10][..], 10)
    );
    assert!(array.is_shared());
    assert_eq!(pair.holds(Side::Worker, 5), 1);
    let mut part = [0; 4];
    assert!(array.read(6, &mut part));
    assert_eq!(&part, b"6789");
    for past in [7, 10, 11, usize::MAX] {
        assert!(!array.read(past, &mut part));
    }
    // It is the worker's to change.
    pwrite(&pair.fd, b"x", value.blocks[0].offset).unwrap();
    assert_eq!(&array.to_ndarray().data[..], b"x123456789");
    let Pair { arena, fd, layout } = pair;
    drop(arena);
    assert_eq!(
        &array.to_ndarray().data[..],
        b"x123456789",
        "it outlives the worker"
    );
    drop(array);
    let mut holds = [1; 4];
    pread(&fd, &mut holds, layout.counter(Side::Worker, 5).unwrap()).unwrap();
    assert_eq!(holds, [0; 4]);
}

#[test]
fn an_argument_that_comes_back_and_stays_is_not_used_for_another_call() {
    let pair = Pair::new(2 * GRAIN);
    let placed = pair
        .arena
        .place(&args(&[&large(9)]), &Encoded::default())
        .unwrap();
    let block = placed.blocks.args[0];
    pair.set_holds(Side::Host, block.number, 1);
    drop(placed);
    let array: SharedArray = pair.receive(&array_of(block)).unwrap().decode().unwrap();
    assert!(
        pair.arena
            .place(&args(&[&large(1)]), &Encoded::default())
            .is_none()
    );
    assert_eq!(array.to_ndarray().data, large(9));
    drop(array);
    assert!(
        pair.arena
            .place(&args(&[&large(1)]), &Encoded::default())
            .is_some()
    );
}

#[test]
fn what_is_not_asked_for_as_a_shared_array_is_given_back() {
    let pair = Pair::new(4 * GRAIN);
    let value = array_of(pair.result(b"0123456789"));
    let array: NdArray = pair.receive(&value).unwrap().decode().unwrap();
    assert_eq!(
        (&array.data[..], pair.holds(Side::Worker, 5)),
        (&b"0123456789"[..], 0)
    );
    pair.set_holds(Side::Worker, 5, 1);
    assert!(pair.receive(&value).unwrap().decode::<String>().is_err());
    assert_eq!(pair.holds(Side::Worker, 5), 0);
    pair.set_holds(Side::Worker, 5, 1);
    drop(pair.receive(&value));
    assert_eq!(pair.holds(Side::Worker, 5), 0);
    let own = codec::encode(&array).unwrap();
    let shared: SharedArray = codec::decode(&own).unwrap();
    assert!(!shared.is_shared() && shared.to_ndarray() == array);
    let mut two = [0; 2];
    assert!(shared.read(8, &mut two) && two == *b"89" && !shared.read(9, &mut two));
    assert!(
        codec::decode::<SharedArray>(&value.value).is_err(),
        "without what it refers to"
    );
}

#[test]
fn references_to_anywhere_else_are_refused() {
    let pair = Pair::new(4 * GRAIN);
    let (host, worker) = (pair.layout.half(Side::Host), pair.layout.half(Side::Worker));
    let places = [
        (0, 8),
        (host.start, 1),
        (host.end - 1, 2),
        (worker.start, 4 * GRAIN + 1),
        (worker.end - 1, 2),
        (worker.end, 1),
        (worker.start, 0),
        (u64::MAX, 1),
        (1, u64::MAX),
        (worker.start, u64::MAX),
    ];
    for (offset, len) in places {
        for number in [0, 4095, 4096, u32::MAX] {
            let block = Block { number, offset, len };
            assert!(pair.take(&refers(block)).is_err(), "{block:?}");
        }
    }
}

#[test]
fn a_value_cannot_be_blown_up() {
    let pair = Pair::new(4 * GRAIN);
    let block = pair.result(&large(1));
    let twice = ValueInArena {
        value: Bytes::from_static(&[0x92, 0xd4, 11, 0, 0xd4, 11, 0]),
        blocks: vec![block],
    };
    assert!(pair.take(&twice).is_err(), "one buffer, two references");
    let unused = ValueInArena {
        value: Bytes::from_static(&[0xc0]),
        blocks: vec![block],
    };
    assert!(pair.take(&unused).is_err(), "one buffer, no reference");
    let too_much = ValueInArena {
        value: Bytes::from_static(&[0xc0]),
        blocks: vec![block; MAX_MESSAGE_LEN / GRAIN as usize + 1],
    };
    let why = pair.take(&too_much).unwrap_err();
    assert!(why.contains("at most 2147483647"), "{why}");
}

#[test]
fn a_worker_that_scribbles_over_the_counters_harms_nobody_else() {
    let pair = Pair::new(16 * GRAIN);
    let mut kept: Vec<(u8, Placed)> = Vec::new();
    for step in 0..200_u8 {
        // Everything from "nobody has anything" to "everybody has everything", block numbers included.
        let nonsense: Vec<u8> = (0..60 << 10)
            .map(|at: u32| (at as u8).wrapping_mul(step).wrapping_add(step))
            .collect();
        pwrite(&pair.fd, &nonsense, 0).unwrap();
        if let Some(placed) = pair.arena.place(&args(&[&large(step)]), &Encoded::default()) {
            kept.push((step, placed));
        }
        for (byte, placed) in &kept {
            assert_eq!(
                pair.content(&placed.blocks.args[0]),
                large(*byte),
                "of another call"
            );
        }
        if kept.len() > 3 {
            kept.remove(usize::from(step) % kept.len());
        }
        // Any answer will do that is one.
        let _ = pair.arena.usage();
    }
    drop(kept);
    pwrite(&pair.fd, &vec![0; 60 << 10], 0).unwrap();
    assert_eq!(pair.taken(), 0);
}

#[test]
fn the_file_keeps_its_size_and_pages_are_given_back() {
    let pair = Pair::new(64 << 20);
    assert!(rustix::fs::ftruncate(&pair.fd, 0).is_err());
    let pages = || rustix::fs::fstat(&pair.fd).unwrap().st_blocks as u64 * 512;
    let args = args(&[&vec![1; 48 << 20]]);
    let placed = pair.arena.place(&args, &Encoded::default()).unwrap();
    assert!(pages() >= 48 << 20);
    drop(placed);
    assert!(pages() >= 48 << 20, "the next call may need them");
    pair.arena.tidy();
    pair.arena.tidy();
    assert!(pages() <= (16 << 20) + (1 << 20), "{} bytes are kept", pages());
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    assert!(Arena::new(0).is_err());
    assert!(Arena::new(u64::MAX).is_err());
}
