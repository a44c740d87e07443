//! Messages in a stream: JSON text and one byte 0x03 behind it, no length before it.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What ends a message. Ganeti: `constants.LUXI_EOM` (3.0.2).
pub const END: u8 = 3;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Cuts a stream into messages, and keeps what came behind the last one.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    /// How much of the buffer is known to have no end in it.
    searched: usize,
}

impl Reader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether something came that is not yet a whole message.
    pub fn is_amid(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// How much came that no message was made of yet.
    pub fn waiting_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// A message that is already there, without its end.
    pub fn take(&mut self) -> Option<BytesMut> {
        let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == END) else {
            self.searched = self.buffer.len();
            return None;
        };
        let message = self.buffer.split_to(self.searched + at);
        self.buffer.advance(1);
        self.searched = 0;
        if self.buffer.is_empty() {
            // The memory goes with the message: it may be much, and a connection is kept for long.
            self.buffer = BytesMut::new();
        }
        Some(message)
    }

    /// Reads once and says how many bytes came; none when the other side closed.
    pub async fn fill<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<usize> {
        self.buffer.reserve(CHUNK);
        stream.read_buf(&mut self.buffer).await
    }

    /// The next message without its end, or `None` when the other side closed between two of them. A close amid a message is an
    /// [`io::ErrorKind::UnexpectedEof`]; a message of more than `limit` bytes is [`io::ErrorKind::InvalidData`].
    pub async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        limit: usize,
    ) -> io::Result<Option<BytesMut>> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            if self.buffer.len() > limit {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
            }
            if self.fill(stream).await? == 0 {
                let whole = !self.is_amid();
                return if whole { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

/// Sends a message. Its text must not contain [`END`]: JSON text never does, since that byte is escaped in strings.
pub async fn send<S: AsyncWrite + Unpin>(stream: &mut S, mut text: Vec<u8>) -> io::Result<()> {
    text.push(END);
    stream.write_all(&text).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
            messages in prop::collection::vec(prop::collection::vec(4_u8.., 0..300), 0..8),
            cuts in prop::collection::vec(1_usize..64, 1..8),
        ) {
            let mut sent = Vec::new();
            for message in &messages {
                run(send(&mut sent, message.clone())).unwrap();
            }
            let mut parts = tokio_test_stream(&sent, &cuts);
            let mut reader = Reader::new();
            let mut seen = Vec::new();
            while let Some(message) = run(reader.next(&mut parts, LIMIT)).unwrap() {
                seen.push(message.to_vec());
            }
            prop_assert_eq!(seen, messages);
        }
    }

    /// A stream that gives `bytes` in pieces of the lengths `cuts`, again and again.
    fn tokio_test_stream(bytes: &[u8], cuts: &[usize]) -> impl AsyncRead + Unpin + use<> {
        struct Cut(Vec<u8>, Vec<usize>, usize);
        impl AsyncRead for Cut {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buffer: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                let turn = self.2;
                self.2 += 1;
                let count = self.1[turn % self.1.len()].min(self.0.len()).min(buffer.remaining());
                let piece: Vec<u8> = self.0.drain(..count).collect();
                buffer.put_slice(&piece);
                std::task::Poll::Ready(Ok(()))
            }
        }
        Cut(bytes.to_vec(), cuts.to_vec(), 0)
    }

    #[test]
    fn a_close_amid_a_message_is_an_error_and_one_between_two_is_not() {
        let close = |bytes: &[u8]| {
            let (mut bytes, mut reader) = (bytes, Reader::new());
            run(async {
                reader.next(&mut bytes, LIMIT).await?;
                reader.next(&mut bytes, LIMIT).await
            })
        };
        assert_eq!(close(b"{}\x03").unwrap(), None);
        assert_eq!(close(b"{}\x03{").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_message_has_a_limit() {
        let mut endless: &[u8] = &[b' '; 3000];
        let error = run(Reader::new().next(&mut endless, 1000)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
