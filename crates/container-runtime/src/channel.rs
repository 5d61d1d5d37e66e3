//! Framed messages with file descriptors over a Unix stream socket.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON. Descriptors travel
//! with the first byte of a frame.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest frame in bytes (16 MiB): the kernel bounds arguments and environment to less.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// Most descriptors in one frame: stdin, stdout and stderr.
const FDS_MAX: usize = 3;

/// A connected socket that carries frames.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    incoming: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// What one read brought.
pub(crate) enum Received {
    /// A whole frame, with the descriptors that came since the last one.
    Frame(Vec<u8>, Vec<OwnedFd>),
    /// Not a whole frame yet.
    Partial,
    /// The other side is gone.
    Closed,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, incoming: Vec::new(), fds: Vec::new() }
    }

    /// Two connected ends; neither survives the start of another program.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (left, right) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::new(left), Self::new(right)))
    }

    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Sends one message; blocks until the kernel has taken it.
    pub(crate) fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len())
            .ok()
            .filter(|_| body.len() <= FRAME_BYTES_MAX)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "message too large"))?;
        let mut frame = length.to_le_bytes().to_vec();
        frame.extend_from_slice(&body);
        let mut sent = self.send_with_fds(&frame, fds)?;
        while sent < frame.len() {
            sent += self.send_with_fds(&frame[sent..], &[])?;
        }
        Ok(())
    }

    fn send_with_fds(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
        }
        loop {
            let sent = rustix::net::sendmsg(
                &self.socket,
                &[IoSlice::new(bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            );
            match sent {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other side closes first.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<(T, Vec<OwnedFd>)> {
        loop {
            match self.read(RecvFlags::empty())? {
                Received::Frame(body, fds) => return Ok((serde_json::from_slice(&body)?, fds)),
                Received::Partial => {}
                Received::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Takes what is there without waiting.
    pub(crate) fn try_read(&mut self) -> io::Result<Received> {
        match self.read(RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Partial),
            other => other,
        }
    }

    fn read(&mut self, flags: RecvFlags) -> io::Result<Received> {
        if let Some(body) = self.take_frame()? {
            return Ok(Received::Frame(body, std::mem::take(&mut self.fds)));
        }
        let mut bytes = [0; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let result = rustix::net::recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags | RecvFlags::CMSG_CLOEXEC,
            );
            match result {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
                other => break other?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || FDS_MAX < self.fds.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too many descriptors"));
        }
        if received.bytes == 0 {
            return Ok(Received::Closed);
        }
        self.incoming.extend_from_slice(&bytes[..received.bytes]);
        Ok(match self.take_frame()? {
            Some(body) => Received::Frame(body, std::mem::take(&mut self.fds)),
            None => Received::Partial,
        })
    }

    fn take_frame(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(header) = self.incoming.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if FRAME_BYTES_MAX < length {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
        }
        if self.incoming.len() < 4 + length {
            return Ok(None);
        }
        let rest = self.incoming.split_off(4 + length);
        let mut frame = std::mem::replace(&mut self.incoming, rest);
        Ok(Some(frame.split_off(4)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn long_message_arrives_with_its_descriptor() -> io::Result<()> {
        let (left, mut right) = Channel::pair()?;
        let text = "x".repeat(300 << 10);
        let (reader, writer) = io::pipe()?;
        let sender = std::thread::spawn({
            let text = text.clone();
            move || left.send(&text, &[writer.as_fd()])
        });
        let (received, fds): (String, _) = right.receive()?;
        assert!(sender.join().is_ok_and(|sent| sent.is_ok()));
        assert_eq!(received, text);
        let mut writer = std::fs::File::from(fds.into_iter().next().expect("one descriptor"));
        writer.write_all(b"hello")?;
        drop(writer);
        assert_eq!(io::read_to_string(reader)?, "hello");
        Ok(())
    }

    #[test]
    fn closed_peer_is_an_end_of_file() -> io::Result<()> {
        let (left, mut right) = Channel::pair()?;
        drop(left);
        let received: io::Result<(String, _)> = right.receive();
        assert_eq!(received.map_err(|e| e.kind()).err(), Some(io::ErrorKind::UnexpectedEof));
        Ok(())
    }

    #[test]
    fn frame_above_the_limit_is_refused() -> io::Result<()> {
        let (left, mut right) = Channel::pair()?;
        std::fs::File::from(left.into_socket()).write_all(&u32::MAX.to_le_bytes())?;
        let received: io::Result<(String, _)> = right.receive();
        assert_eq!(received.map_err(|e| e.kind()).err(), Some(io::ErrorKind::InvalidData));
        Ok(())
    }
}
