//! [`GuardedBody`]: holds the permit until the response's bytes are gone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::delivery::Delivery;
use super::reply::{OrReply, OrReplyProj};
use crate::error::{BoxError, PeerStalled};
use crate::guard::charged::Charged;
use crate::guard::held::InFlight;
use crate::guard::permit::Permit;
use crate::guard::poller::Poller;
use crate::sync::foreign;

/// A frame above this size carries a share of the permit, and goes out in
/// pieces of this size.
///
/// A server drops a body when it has taken the last frame, not when that frame
/// was sent, and some copy a frame as a whole into their write buffer. Smaller
/// frames are released as they are taken: a server buffers some hundred
/// kilobytes of them for a connection.
const LARGE_FRAME_BYTES: usize = 64 << 10;

pin_project! {
    /// The body of a guarded response.
    ///
    /// Transparent: data, trailers, size and end are those of the inner body
    /// (a large data frame arrives in several pieces). The permit is given back
    /// once the body is at its end and the bytes of its large frames are gone.
    ///
    /// # Errors
    ///
    /// Those of the inner body, and [`PeerStalled`] if the peer did not read for
    /// longer than [`body_timeout`](crate::MemoryGuardBuilder::body_timeout).
    pub struct GuardedBody<B> {
        #[pin]
        body: OrReply<B>,
        poller: Poller,
        hold: Hold,
        // Of a large frame.
        rest: Option<Bytes>,
        // Bytes that the head still promises. A server drops a body when it has those,
        // whatever the body says of its end.
        promised_bytes: Option<u64>,
    }

    impl<B> PinnedDrop for GuardedBody<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if !this.hold.is_nothing() {
                // Before its end. What it held is off its account, which clones of the permit
                // may keep.
                let mut shared = None;
                let permit = this.hold.permit(&mut shared);
                let _scope = permit.map(Permit::enter);
                this.body.set(OrReply::reply(Bytes::new()));
            }
        }
    }
}

/// How the body holds the permit.
enum Hold {
    Nothing,
    /// By itself: what most responses need, and allocates nothing.
    Own(InFlight),
    /// Together with frames on their way, and watched for a peer that stalls.
    Shared {
        delivery: Arc<Delivery>,
        ended: bool,
    },
}

impl Hold {
    fn is_nothing(&self) -> bool {
        matches!(self, Hold::Nothing)
    }

    /// Of one that is shared a clone, where somebody wants to know whose memory it is.
    #[inline(always)]
    fn permit<'a>(&'a self, shared: &'a mut Option<Permit>) -> Option<&'a Permit> {
        match self {
            Hold::Nothing => return None,
            Hold::Own(held) => return held.permit(),
            Hold::Shared { delivery, .. } => *shared = delivery.tracked_permit(),
        }
        shared.as_ref()
    }

    fn share(&mut self) -> Option<&Arc<Delivery>> {
        if let Hold::Own(held) = self {
            *self = Hold::Shared {
                delivery: Delivery::start(held.take()?),
                ended: false,
            };
        }
        match self {
            Hold::Shared { delivery, .. } => Some(delivery),
            _ => None,
        }
    }

    /// The server asks for more: whatever it was given is taken.
    fn asked(&self) -> Result<(), PeerStalled> {
        match self {
            Hold::Shared { delivery, .. } => delivery.asked(),
            _ => Ok(()),
        }
    }

    /// A frame was given, and more are to come: the server should ask for them.
    fn gave(&mut self) {
        if let Some(delivery) = self.share() {
            delivery.gave();
        }
    }

    /// The body ends with an error.
    fn fail(&self) {
        match self {
            Hold::Own(held) => held.permit().into_iter().for_each(Permit::fails),
            Hold::Shared { delivery, .. } => delivery.fail(),
            Hold::Nothing => {}
        }
    }

    /// The body is at its end; only frames on their way hold on.
    fn finish(&mut self) {
        match self {
            Hold::Own(held) => held.end(),
            Hold::Shared { delivery, ended } => {
                delivery.gave();
                *ended = true;
            }
            Hold::Nothing => {}
        }
        *self = Hold::Nothing;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Dropped before its end: nobody waits for the work any more.
        if let Hold::Shared {
            delivery,
            ended: false,
        } = self
        {
            delivery.abandon();
        }
    }
}

/// The bytes of a large frame, with a share of the permit.
struct Carried {
    // In this order: sent, they are no longer the work's, whose account ends with the share.
    _charged: Charged,
    data: Bytes,
    _share: Arc<Delivery>,
}

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl<B: Body> GuardedBody<B> {
    /// Takes what `held` holds, if anything.
    #[inline]
    pub(crate) fn new(body: B, promised_bytes: Option<u64>, held: &mut InFlight) -> Self {
        let mut hold = match held.with_head(promised_bytes == Some(0)) {
            held if held.permit().is_some() => Hold::Own(held),
            _ => Hold::Nothing,
        };
        // Nothing to send, as in the answer to an upgrade: the permit ends here.
        if body.is_end_stream() {
            hold.finish();
        }
        Self::of(OrReply::Inner { body }, hold, promised_bytes)
    }
}

/// What a response's head says of a body that does not say it by itself.
#[inline]
pub(crate) fn promised_bytes<B: Body>(response: &Response<B>) -> Option<u64> {
    let hint = response.body().size_hint();
    match hint.exact() {
        None => {
            let length = response.headers().get(CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        }
        exact => exact,
    }
}

impl<B> GuardedBody<B> {
    /// The body of the service's response; `None`: it is the guard's own answer.
    pub fn get_ref(&self) -> Option<&B> {
        self.body.get_ref()
    }

    /// The body of the service's response; `None`: it is the guard's own answer.
    pub fn get_mut(&mut self) -> Option<&mut B> {
        self.body.get_mut()
    }

    /// What the request has cost so far: the most that it held, as far as that is known,
    /// else what is reserved for it. `None` if it holds no permit any more.
    pub(crate) fn cost_bytes(&self) -> Option<u64> {
        let mut shared = None;
        let permit = self.hold.permit(&mut shared)?;
        match permit.peak_bytes() {
            0 => Some(permit.bytes()),
            peak_bytes => Some(peak_bytes),
        }
    }

    pub(crate) fn rejection(bytes: Bytes) -> Self {
        Self::of(OrReply::reply(bytes), Hold::Nothing, None)
    }

    #[inline]
    fn of(body: OrReply<B>, hold: Hold, promised_bytes: Option<u64>) -> Self {
        Self {
            body,
            poller: Poller::default(),
            hold,
            rest: None,
            promised_bytes,
        }
    }
}

/// Empty: for layers outside of the guard that answer in its place, as
/// `tower_http::timeout::TimeoutLayer` does.
impl<B> Default for GuardedBody<B> {
    fn default() -> Self {
        Self::rejection(Bytes::new())
    }
}

impl<B> Body for GuardedBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let mut body = match this.body.as_mut().project() {
            OrReplyProj::Reply { reply } => return Poll::Ready(reply.take_frame().map(Ok)),
            OrReplyProj::Inner { body } => body,
        };
        if let Err(stalled) = this.hold.asked() {
            *this.rest = None;
            this.hold.finish();
            return Poll::Ready(Some(Err(stalled.into())));
        }
        let (frame, slot) = if let Some(rest) = this.rest.take() {
            (Frame::data(rest), None)
        } else {
            let (frame, slot) = {
                let mut shared = None;
                let permit = this.hold.permit(&mut shared);
                // After the delivery was asked and its own pieces are gone.
                let mut growth = None;
                let _polling = std::task::ready!(this.poller.poll(permit, false, &mut growth, cx));
                let polled = foreign::watch(|| body.as_mut().poll_frame(cx), || this.hold.fail());
                let frame = std::task::ready!(polled);
                (frame, permit.and_then(Permit::slot))
            };
            match frame {
                Some(Ok(frame)) => {
                    let carried = frame.map_data(|data| {
                        let charged = Charged::new(slot, data.len());
                        carry(data, this.hold, charged)
                    });
                    (carried, slot)
                }
                end => {
                    this.poller.ended(slot);
                    if matches!(end, Some(Err(_))) {
                        this.hold.fail();
                    }
                    this.hold.finish();
                    return Poll::Ready(end.map(|result| result.map_err(Into::into)));
                }
            }
        };
        let frame = frame.map_data(|mut data| {
            if data.len() > LARGE_FRAME_BYTES && !this.hold.is_nothing() {
                *this.rest = Some(data.split_off(LARGE_FRAME_BYTES));
            }
            data
        });
        if let (Some(promised), Some(data)) = (this.promised_bytes.as_mut(), frame.data_ref()) {
            *promised = promised.saturating_sub(data.len() as u64);
        }
        // A server that has the trailers drops the body as well.
        let is_last = frame.is_trailers() || body.is_end_stream();
        let is_over = is_last || *this.promised_bytes == Some(0);
        if is_over {
            this.poller.ended(slot);
        }
        if this.rest.is_none() && is_over {
            this.hold.finish();
        } else {
            this.hold.gave();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len() as u64);
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// Gives a large frame a share of the permit.
fn carry(data: Bytes, hold: &mut Hold, charged: Charged) -> Bytes {
    if data.len() <= LARGE_FRAME_BYTES {
        return data;
    }
    let Some(delivery) = hold.share() else {
        return data;
    };
    Bytes::from_owner(Carried {
        _charged: charged,
        data,
        _share: Arc::clone(delivery),
    })
}

opaque_debug!(impl[B] GuardedBody<B>);
