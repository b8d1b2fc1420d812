//! Bodies on their way through: handed on piece by piece as they come, and copied on the side.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use metrics::counter;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::proxy::copy::{Copied, Copying, Missed};

/// The copy of a request's body, once the upstream has it; nothing while it has not.
pub(crate) type RequestCopy = oneshot::Receiver<Result<Copied, Missed>>;

/// A client's body on its way to the upstream.
pub(crate) struct RequestBody {
    inner: Body,
    copying: Option<(Copying, oneshot::Sender<Result<Copied, Missed>>)>,
}

impl RequestBody {
    /// The body, and where its copy comes.
    pub(crate) fn copied(inner: Body, copying: Copying) -> (Self, RequestCopy) {
        let (sender, receiver) = oneshot::channel();
        let mut body = Self { inner, copying: Some((copying, sender)) };
        // A body that is empty is not asked for a piece.
        if body.inner.is_end_stream() {
            body.finish();
        }
        (body, receiver)
    }

    fn finish(&mut self) {
        if let Some((copying, sender)) = self.copying.take() {
            let _ = sender.send(copying.finish());
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some((copying, _))) = (frame.data_ref(), self.copying.as_mut()) {
                    copying.push(data);
                }
                // Whoever knows that this was the last piece asks for no other.
                if self.inner.is_end_stream() {
                    self.finish();
                }
            }
            Some(Err(_)) => self.copying = None,
            None => self.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What is told of an answer's body.
pub(crate) trait Tap: Send {
    /// A piece is about to be handed on.
    fn data(&mut self, data: &[u8]);
    /// Nothing follows. `whole`: because the body is at its end.
    fn end(self: Box<Self>, whole: bool);
}

/// The upstream's body on its way to the client.
pub(crate) struct AnswerBody {
    inner: Incoming,
    /// Whether the answer's head tells its length: only then may anybody add it.
    has_length: bool,
    idle: Duration,
    /// Runs while the upstream is waited for.
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
    has_ended: bool,
    tap: Option<Box<dyn Tap>>,
}

impl AnswerBody {
    pub(crate) fn new(inner: Incoming, has_length: bool, idle: Duration, tap: Option<Box<dyn Tap>>) -> Self {
        let timer = Box::pin(tokio::time::sleep(idle));
        let mut body = Self { inner, has_length, idle, timer, is_waiting: false, has_ended: false, tap };
        if body.inner.is_end_stream() {
            body.end(true);
        }
        body
    }

    fn end(&mut self, whole: bool) {
        self.has_ended = true;
        if let Some(tap) = self.tap.take() {
            tap.end(whole);
        }
    }

    fn cut(&mut self, reason: &'static str) {
        counter!("flywheel_serving_upstream_answers_cut_total", "reason" => reason).increment(1);
        self.end(false);
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            if !self.is_waiting {
                self.is_waiting = true;
                let until = Instant::now() + self.idle;
                self.timer.as_mut().reset(until);
            }
            ready!(self.timer.as_mut().poll(context));
            self.cut("idle");
            return Poll::Ready(Some(Err("the upstream says nothing more".into())));
        };
        self.is_waiting = false;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(tap)) = (frame.data_ref(), self.tap.as_mut()) {
                    tap.data(data);
                }
                // Whoever knows that this was the last piece asks for no other.
                if self.inner.is_end_stream() {
                    self.end(true);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.cut("upstream");
                // The client learns it as it would without us: the body breaks off.
                Some(Err(error.into()))
            }
            None => {
                self.end(true);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.has_length { self.inner.size_hint() } else { SizeHint::default() }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if !self.has_ended {
            self.cut("client");
        }
    }
}
