//! Talking to the kernel about interfaces and packet rules.
//!
//! Every request is for the network namespace of the calling thread, and blocks until the kernel
//! has answered, which takes microseconds.

pub(crate) mod link;
pub(crate) mod nft;

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Sends `messages` as one datagram and waits for `answers` acknowledgements or the first error.
fn exchange<T>(protocol: isize, messages: Vec<NetlinkMessage<T>>, answers: usize) -> io::Result<()>
where
    T: NetlinkSerializable + NetlinkDeserializable + Debug,
{
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut datagram = Vec::new();
    for (number, mut message) in (1..).zip(messages) {
        message.header.sequence_number = number;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        // Messages of one datagram start at multiples of four.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        datagram.extend(bytes);
    }
    socket.send(&datagram, 0)?;
    let mut acknowledged = 0;
    while acknowledged < answers {
        let (bytes, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<T>::deserialize(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if let NetlinkPayload::Error(answer) = answer.payload {
            if answer.code.is_some() {
                return Err(answer.to_io());
            }
            acknowledged += 1;
        }
    }
    Ok(())
}
