//! Values that a worker answers: any bytes are a value or an error, and a value that was read is written and read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use snakepit_core::rpc::{Value, codec};

fuzz_target!(|encoded: &[u8]| {
    let Ok(value) = codec::decode::<Value>(encoded) else {
        return;
    };
    if let Value::NdArray(array) = &value {
        // Each is the elements or an error, whatever shape and type the other side has written.
        let _ = array.to_vec::<f64>();
        let _ = array.to_vec::<u8>();
        let _ = ndarray::ArrayD::<f64>::try_from(array);
    }
    let again = codec::encode(&value).expect("what was read can be written");
    let read = codec::decode::<Value>(&again).expect("what was written can be read");
    // By what is written: NaN is not equal to itself.
    assert_eq!(codec::encode(&read).expect("and written again"), again);
    // Types of callers take it or say that they do not.
    let _ = codec::decode::<Vec<u64>>(encoded);
    let _ = codec::decode::<(String, f64)>(encoded);
    let _ = codec::decode::<std::collections::BTreeMap<String, i64>>(encoded);
});
