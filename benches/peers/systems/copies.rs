//! What the memory itself needs for an array there and back: it is copied twice.

use std::{hint::black_box, sync::Arc};

use tokio::sync::Mutex;

use crate::{
    Result,
    load::{Cell, closed_loop},
    stats::Sample,
};

/// It has no workers.
#[derive(Debug)]
pub(crate) struct Copies;

impl Copies {
    /// Copies `cell.payload` into a second place and from there into a third, all of them touched before.
    pub(crate) async fn load(&self, cell: Cell) -> Result<Sample> {
        let place = |byte| vec![byte; cell.payload.bytes];
        let places = Arc::new(Mutex::new((place(1_u8), place(2), place(3))));
        closed_loop(cell, move |_| {
            let places = Arc::clone(&places);
            async move {
                let mut places = places.lock().await;
                let (first, second, third) = &mut *places;
                second.copy_from_slice(black_box(first));
                third.copy_from_slice(black_box(second));
                black_box(third);
                Ok(())
            }
        })
        .await
    }
}
