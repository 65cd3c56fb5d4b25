//! What HAProxy's agent checks are answered.
//!
//! <https://docs.haproxy.org/2.8/configuration.html#5.2-agent-check>

use crate::guard::handle::Guard;

/// The share of a server's weight, in percent, at this demand: half of it where half is
/// used, a ninth where all is. Falls without an end, so that of servers that are all
/// overloaded the one with the most room still gets the most.
pub(crate) fn weight_percent(demand: f64) -> u8 {
    let weight = 100.0 / (1.0 + (2.0 * demand.max(0.0)).powi(3));
    weight.round().clamp(1.0, 100.0) as u8
}

impl Guard {
    /// The answer to one agent check of HAProxy's: `37%` and an end of line.
    ///
    /// The percentage is that of the server's configured weight; it falls with the demand,
    /// so that servers of different size come to be used alike. `0%` when the process is
    /// not [ready](Self::is_ready): it gets no new requests then. Administrative states
    /// are left alone.
    ///
    /// ```
    /// let layer = tower_memory_guard::MemoryGuardLayer::builder().build()?;
    /// assert_eq!(layer.guard().agent_check_line(), "100%\n");
    /// # Ok::<(), tower_memory_guard::ConfigError>(())
    /// ```
    pub fn agent_check_line(&self) -> String {
        let percent = match self.is_ready() {
            true => weight_percent(self.state().loads().demand),
            false => 0,
        };
        format!("{percent}%\n")
    }
}

#[cfg(feature = "agent-check")]
mod serve {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};

    use crate::guard::handle::Guard;

    /// A peer that takes none of five bytes is given up.
    const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
    /// After an error of the listener's, such as too many open files.
    const PAUSE: Duration = Duration::from_millis(100);

    /// Answers HAProxy's agent checks.
    ///
    /// ```no_run
    /// use tokio::net::TcpListener;
    /// use tower_memory_guard::{AgentCheck, MemoryGuardLayer};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_memory_guard::BoxError> {
    /// let layer = MemoryGuardLayer::from_env();
    /// // Where HAProxy can reach it, and nobody else.
    /// let listener = TcpListener::bind("10.0.0.7:9707").await?;
    /// tokio::spawn(AgentCheck::new(layer.guard().clone()).serve(listener));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// and in HAProxy
    ///
    /// ```text
    /// server one 10.0.0.7:8080 check weight 100 agent-check agent-port 9707 agent-inter 1s
    /// ```
    #[derive(Clone, Debug)]
    pub struct AgentCheck {
        guard: Guard,
    }

    impl AgentCheck {
        /// Answers for `guard`.
        pub fn new(guard: Guard) -> Self {
            Self { guard }
        }

        /// Answers each connection with [`Guard::agent_check_line`], and ends it. Goes on
        /// when the guard is closed, so that the balancer gets to know.
        ///
        /// # Cancel safety
        ///
        /// Dropping the future stops listening.
        pub async fn serve(self, listener: TcpListener) {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let answer = self.answer(&stream);
                        let _ = tokio::time::timeout(WRITE_TIMEOUT, answer).await;
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
            }
        }

        async fn answer(&self, stream: &TcpStream) -> std::io::Result<()> {
            stream.writable().await?;
            // A new connection's buffer takes it at once.
            stream.try_write(self.guard.agent_check_line().as_bytes())?;
            Ok(())
        }
    }
}

#[cfg(feature = "agent-check")]
pub use serve::AgentCheck;

#[cfg(test)]
mod tests {
    use super::weight_percent;

    #[test]
    fn more_demand_is_less_weight() {
        let weights = [0.0, 0.5, 1.0, 1.5, 3.0, 100.0].map(weight_percent);
        assert_eq!(weights, [100, 50, 11, 4, 1, 1]);
    }
}
