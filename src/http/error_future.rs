//! [`ErrorFuture`]: waiting → calling → done, for any service.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::error::{BoxError, Rejected};
use crate::guard::held::InFlight;
use crate::guard::permit::Permit;
use crate::guard::poller::Poller;
use crate::guard::waiting::Waiting;

pin_project! {
    /// The future of [`MemoryGuardErrorService`](crate::MemoryGuardErrorService): the inner
    /// service's answer, or a [`Rejected`].
    pub struct ErrorFuture<F> {
        #[pin]
        state: ErrorState<F>,
    }

    impl<F> PinnedDrop for ErrorFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let state = this.project().state;
            if state.is_under_way() {
                state.give_up();
            }
        }
    }
}

pin_project! {
    #[project = ErrorStateProj]
    enum ErrorState<F> {
        Calling { #[pin] future: F, poller: Poller, held: InFlight, waiting: Option<Box<Waiting>> },
        Rejected { rejected: Option<Box<Rejected>> },
    }
}

impl<F> ErrorFuture<F> {
    /// `future` is polled once the wait is over, if there is one.
    #[inline]
    pub(crate) fn calling(future: F, held: InFlight, waiting: Option<Box<Waiting>>) -> Self {
        Self {
            state: ErrorState::Calling {
                future,
                poller: Poller::default(),
                held,
                waiting,
            },
        }
    }

    pub(crate) fn rejected(rejected: Box<Rejected>) -> Self {
        let rejected = Some(rejected);
        Self {
            state: ErrorState::Rejected { rejected },
        }
    }
}

impl<F> ErrorState<F> {
    #[inline]
    fn is_under_way(&self) -> bool {
        matches!(self, ErrorState::Calling { held, .. } if held.permit().is_some())
    }

    /// Drops the inner future, and then the permit. What that held is off its account, which
    /// work elsewhere may keep.
    #[cold]
    fn give_up(mut self: Pin<&mut Self>) {
        if let ErrorStateProj::Calling { held, .. } = self.as_mut().project() {
            let held = std::mem::replace(held, InFlight::new(None));
            let _scope = held.permit().map(Permit::enter);
            self.set(ErrorState::Rejected { rejected: None });
        }
    }
}

impl<F, T, E> Future for ErrorFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        match state.as_mut().project() {
            ErrorStateProj::Calling {
                future,
                poller,
                held,
                waiting,
            } => {
                if let Some(wait) = waiting {
                    match ready!(Pin::new(&mut **wait).poll(cx)) {
                        Ok(permit) => {
                            *held = InFlight::new(Some(permit));
                            held.start();
                        }
                        Err(rejected) => {
                            // The inner future is dropped unpolled.
                            state.set(ErrorState::Rejected { rejected: None });
                            return Poll::Ready(Err(rejected.into()));
                        }
                    }
                    *waiting = None;
                }
                if let Some(permit) = held.permit() {
                    if permit.can_be_cancelled() && held.is_cancelled(cx) {
                        poller.ended(held.slot());
                        let rejected = permit.reject_cancelled();
                        state.give_up();
                        return Poll::Ready(Err(rejected.into()));
                    }
                }
                let result = {
                    let mut growth = None;
                    let _polling = ready!(poller.poll(held.permit(), false, &mut growth, cx));
                    ready!(held.run(|| future.poll(cx)))
                };
                poller.ended(held.slot());
                match result.is_ok() {
                    true => held.end(),
                    false => held.fail(),
                }
                Poll::Ready(result.map_err(Into::into))
            }
            ErrorStateProj::Rejected { rejected } => {
                let rejected = rejected.take().expect("polled after it was done");
                Poll::Ready(Err(rejected))
            }
        }
    }
}

opaque_debug!(impl[F] ErrorFuture<F>);
