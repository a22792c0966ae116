//! The virtio devices of Mote.
#![forbid(unsafe_code)]
