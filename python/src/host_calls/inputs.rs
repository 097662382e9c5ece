//! The inputs of calls: what has come of them, and what the host is asked for.

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use snakepit_proto::v1::{HostError, InputGrant, InputItems, host_error::Kind, host_request::Message};

use super::{failure, value::Value, waiter::Waiter};
use crate::arena::Holds;

/// How an input has ended.
#[derive(Debug)]
enum End {
    /// With its last item, or an error that was told.
    Over,
    Failed(HostError),
    /// The call was cancelled.
    Cancelled,
}

#[derive(Debug)]
struct Input {
    credit: u32,
    items: VecDeque<Value>,
    /// Items that were taken so far.
    number: u64,
    /// Items that were taken since the host was told so.
    taken: u32,
    /// The host was asked for items.
    asked: bool,
    end: Option<End>,
    waiters: Vec<Waiter>,
}

impl Input {
    /// What there is to ask for: at first as much as is to be had, then what was taken.
    fn asks(&mut self, call_id: u64) -> Option<Message> {
        let items = if self.asked {
            mem::take(&mut self.taken)
        } else {
            self.credit
        };
        self.asked = true;
        (items > 0 && self.end.is_none()).then_some(Message::Grant(InputGrant { call_id, items }))
    }

    fn end(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
        }
        self.wake();
    }

    fn wake(&mut self) {
        for waiter in self.waiters.drain(..) {
            waiter.wake();
        }
    }
}

/// What asking for the next item gives. The number is that of the items before it.
#[derive(Debug)]
pub(super) enum Next {
    Item(u64, Value),
    End,
    Failed(u64, HostError),
    Cancelled(u64),
    /// There will be something; whoever waits is told.
    Wait,
}

/// The items of a message.
pub(super) fn items_of(message: InputItems) -> Vec<Value> {
    let mut items: Vec<Value> = message.items.into_iter().map(Value::from).collect();
    for refers in message.in_arena {
        // Those of an item that is not there are given back at once.
        let holds = Holds::from(refers.blocks);
        if let Some(item) = items.get_mut(refers.item as usize) {
            item.hold(holds);
        }
    }
    items
}

/// The inputs of the calls that run, by their ids.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    open: HashMap<u64, Input>,
    /// What the host is to be told, in order: at most one message for each half of a credit.
    messages: VecDeque<Message>,
}

impl Inputs {
    pub(super) fn open(&mut self, call_id: u64, credit: u32) {
        let input = Input {
            credit,
            items: VecDeque::new(),
            number: 0,
            taken: 0,
            asked: false,
            end: None,
            waiters: Vec::new(),
        };
        self.open.insert(call_id, input);
    }

    /// What is to be told next.
    pub(super) fn message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// Takes the next item, or has somebody wait for it.
    pub(super) fn next(&mut self, call_id: u64, waiter: impl FnOnce() -> Waiter) -> Next {
        let Some(input) = self.open.get_mut(&call_id) else {
            return Next::Failed(0, failure(Kind::Cancelled, "the call is over"));
        };
        if let Some(item) = input.items.pop_front() {
            let number = input.number;
            input.number += 1;
            input.taken += 1;
            // Asking in halves keeps the stream busy with few messages.
            if input.taken >= input.credit.div_ceil(2) {
                self.messages.extend(input.asks(call_id));
            }
            return Next::Item(number, item);
        }
        match &mut input.end {
            Some(End::Over) => Next::End,
            Some(End::Cancelled) => Next::Cancelled(input.number),
            Some(end @ End::Failed(_)) => match mem::replace(end, End::Over) {
                End::Failed(error) => Next::Failed(input.number, error),
                End::Over | End::Cancelled => Next::End,
            },
            None => {
                input.waiters.push(waiter());
                self.messages.extend(input.asks(call_id));
                Next::Wait
            }
        }
    }

    /// Takes what the host has sent.
    pub(super) fn receive(&mut self, mut message: InputItems) {
        let (end, error) = (message.end, message.error.take());
        let call_id = message.call_id;
        let items = items_of(message);
        // What was under way when it was left finds nobody.
        let Some(input) = self.open.get_mut(&call_id) else {
            return;
        };
        if input.end.is_some() {
            return;
        }
        input.items.extend(items);
        if end {
            input.end(error.map_or(End::Over, End::Failed));
        } else {
            input.wake();
        }
    }

    /// Nobody reads it any more; true when it was open.
    pub(super) fn leave(&mut self, call_id: u64) -> bool {
        let Some(mut input) = self.open.remove(&call_id) else {
            return false;
        };
        if input.end.is_none() {
            self.messages.push_back(Message::Leave(call_id));
        }
        input.wake();
        true
    }

    /// The calls that are meant were cancelled. What an event loop waits for ends with its task, which is cancelled in Python.
    pub(super) fn cancel(&mut self, which: impl Fn(u64) -> bool) {
        for (&call_id, input) in &mut self.open {
            if which(call_id) {
                input.items.clear();
                input.end = Some(End::Cancelled);
                let (threads, loops) = mem::take(&mut input.waiters)
                    .into_iter()
                    .partition::<Vec<_>, _>(Waiter::is_thread);
                input.waiters = loops;
                for thread in threads {
                    thread.wake();
                }
            }
        }
    }

    /// Nothing more will come.
    pub(super) fn fail(&mut self, why: &str) {
        self.messages.clear();
        for input in self.open.values_mut() {
            input.end(End::Failed(failure(Kind::Cancelled, why)));
        }
    }
}
