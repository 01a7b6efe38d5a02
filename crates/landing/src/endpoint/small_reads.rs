//! A listener whose connections hand the HTTP server a bounded number of bytes at a time.
//!
//! The server's read buffer grows to 400 KiB for a connection that keeps filling it, and there are two of them for a body
//! that is read slower than it comes. With many uploads at once that is most of the memory of the process. It only grows
//! when one read fills it, so reads that stay small keep it small; uploads are no slower for it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of one read.
pub const MAX_READ_BYTES: usize = 32 * 1024;

/// Wraps the listener that the [`router`](super::router) is served on.
#[derive(Debug)]
pub struct SmallReads<L>(pub L);

impl<L: Listener> Listener for SmallReads<L> {
    type Io = SmallReadsIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, address) = self.0.accept().await;
        (SmallReadsIo(io), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// A connection of [`SmallReads`].
#[derive(Debug)]
pub struct SmallReadsIo<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for SmallReadsIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // The part is lent initialised: no unsafe code for the price of clearing each buffer once.
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(buffer.remaining().min(MAX_READ_BYTES)));
        let read = Pin::new(&mut self.0).poll_read(cx, &mut part);
        let count = part.filled().len();
        buffer.advance(count);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for SmallReadsIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
