//! What our user is allowed at the brokers, as they say it themselves (KIP-430): nothing has to be tried out for it.
//!
//! librdkafka can ask; its Rust side can not yet. So this file speaks to the library, and is the only one of this room
//! that does. Every pointer lives as long as the value that owns it, and what an answer points to is copied before the
//! answer goes.
#![allow(unsafe_code, reason = "the library has no safe side for this question")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char, c_int};
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::bindings as native;
use rdkafka::error::RDKafkaErrorCode;

use super::client::Context;
use super::rights::Operation;

/// What is allowed on things by their names, or why that can not be known.
pub(super) type Granted = BTreeMap<String, Result<BTreeSet<Operation>, RDKafkaErrorCode>>;

/// How much longer than the brokers the library itself may take.
const SLACK: Duration = Duration::from_millis(500);

/// Something of the library that must be given back.
struct Owned<T> {
    pointer: *mut T,
    give_back: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, give_back: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        (!pointer.is_null()).then_some(Self { pointer, give_back })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by the library, not null, and given back nowhere else.
        unsafe { (self.give_back)(self.pointer) }
    }
}

type Event = Owned<native::rd_kafka_event_t>;

/// Asks, and waits for the answer.
fn ask(
    client: &AdminClient<Context>,
    timeout: Duration,
    question: impl FnOnce(*mut native::rd_kafka_t, *const native::rd_kafka_AdminOptions_t, *mut native::rd_kafka_queue_t),
) -> Result<Event, RDKafkaErrorCode> {
    let no_room = RDKafkaErrorCode::Fail;
    let client = client.inner().native_ptr();
    let millis = |duration: Duration| c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the client is borrowed and so outlives all of this; an event does not need its queue any more.
    unsafe {
        let queue = Owned::new(native::rd_kafka_queue_new(client), native::rd_kafka_queue_destroy).ok_or(no_room)?;
        let any = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ANY;
        let options = native::rd_kafka_AdminOptions_new(client, any);
        let options = Owned::new(options, native::rd_kafka_AdminOptions_destroy).ok_or(no_room)?;
        let mut message = [0 as c_char; 256];
        let timeout_ms = millis(timeout);
        native::rd_kafka_AdminOptions_set_request_timeout(
            options.pointer,
            timeout_ms,
            message.as_mut_ptr(),
            message.len(),
        );
        let refused = native::rd_kafka_AdminOptions_set_include_authorized_operations(options.pointer, 1);
        if let Some(refused) = Owned::new(refused, native::rd_kafka_error_destroy) {
            return Err(native::rd_kafka_error_code(refused.pointer).into());
        }
        question(client, options.pointer, queue.pointer);
        let event = native::rd_kafka_queue_poll(queue.pointer, millis(timeout.saturating_add(SLACK)));
        let event = Owned::new(event, native::rd_kafka_event_destroy).ok_or(RDKafkaErrorCode::OperationTimedOut)?;
        match native::rd_kafka_event_error(event.pointer).into() {
            RDKafkaErrorCode::NoError => Ok(event),
            code => Err(code),
        }
    }
}

/// Names as the library takes them, and what keeps them alive.
fn names(names: &[String]) -> (Vec<CString>, Vec<*const c_char>) {
    // Names of ours hold no NUL.
    let owned: Vec<CString> = names.iter().filter_map(|name| CString::new(name.as_str()).ok()).collect();
    let pointers = owned.iter().map(|name| name.as_ptr()).collect();
    (owned, pointers)
}

/// What is allowed on topics. Blocks.
pub(super) fn on_topics(
    client: &AdminClient<Context>,
    topics: &[String],
    timeout: Duration,
) -> Result<Granted, RDKafkaErrorCode> {
    let (_alive, mut pointers) = names(topics);
    // SAFETY: the names are alive, and copied by the library.
    let collection = unsafe {
        let collection = native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        Owned::new(collection, native::rd_kafka_TopicCollection_destroy).ok_or(RDKafkaErrorCode::Fail)?
    };
    // SAFETY: all pointers are alive for the call, and what they point to is copied.
    let event = ask(client, timeout, |client, options, queue| unsafe {
        native::rd_kafka_DescribeTopics(client, collection.pointer, options, queue);
    })?;
    let mut granted = Granted::new();
    // SAFETY: the answer lives as long as the event, and each entry as long as the answer.
    unsafe {
        let answer = native::rd_kafka_event_DescribeTopics_result(event.pointer);
        let mut count = 0;
        let entries = native::rd_kafka_DescribeTopics_result_topics(answer, &raw mut count);
        for index in 0..count {
            let entry = *entries.add(index);
            let mut operations = 0;
            let list = native::rd_kafka_TopicDescription_authorized_operations(entry, &raw mut operations);
            let error = native::rd_kafka_TopicDescription_error(entry);
            let name = native::rd_kafka_TopicDescription_name(entry);
            granted.insert(text(name), allowed(error, list, operations));
        }
    }
    Ok(granted)
}

/// What is allowed on groups, whether they are there or not. Blocks.
pub(super) fn on_groups(
    client: &AdminClient<Context>,
    groups: &[String],
    timeout: Duration,
) -> Result<Granted, RDKafkaErrorCode> {
    let (_alive, mut pointers) = names(groups);
    // SAFETY: all pointers are alive for the call, and what they point to is copied.
    let event = ask(client, timeout, |client, options, queue| unsafe {
        native::rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue);
    })?;
    let mut granted = Granted::new();
    // SAFETY: the answer lives as long as the event, and each entry as long as the answer.
    unsafe {
        let answer = native::rd_kafka_event_DescribeConsumerGroups_result(event.pointer);
        let mut count = 0;
        let entries = native::rd_kafka_DescribeConsumerGroups_result_groups(answer, &raw mut count);
        for index in 0..count {
            let entry = *entries.add(index);
            let mut operations = 0;
            let list = native::rd_kafka_ConsumerGroupDescription_authorized_operations(entry, &raw mut operations);
            let error = native::rd_kafka_ConsumerGroupDescription_error(entry);
            let name = native::rd_kafka_ConsumerGroupDescription_group_id(entry);
            granted.insert(text(name), allowed(error, list, operations));
        }
    }
    Ok(granted)
}

/// # Safety
/// A text of the library, or null.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// # Safety
/// An error of the library or null, and `count` operations of it behind each other or null.
unsafe fn allowed(
    error: *const native::rd_kafka_error_t,
    list: *const native::rd_kafka_AclOperation_t,
    count: usize,
) -> Result<BTreeSet<Operation>, RDKafkaErrorCode> {
    // SAFETY: the caller's. Numbers are read, not names: a newer library may know more of them than its Rust side.
    unsafe {
        if !error.is_null() {
            match native::rd_kafka_error_code(error).into() {
                RDKafkaErrorCode::NoError => {}
                code => return Err(code),
            }
        }
        if list.is_null() {
            return Err(RDKafkaErrorCode::UnsupportedFeature);
        }
        let numbers = std::slice::from_raw_parts(list.cast::<u32>(), count);
        Ok(numbers.iter().filter_map(|number| operation(*number)).collect())
    }
}

fn operation(number: u32) -> Option<Operation> {
    match number {
        3 => Some(Operation::Read),
        4 => Some(Operation::Write),
        5 => Some(Operation::Create),
        8 => Some(Operation::Describe),
        10 => Some(Operation::DescribeConfigs),
        11 => Some(Operation::AlterConfigs),
        _ => None,
    }
}
