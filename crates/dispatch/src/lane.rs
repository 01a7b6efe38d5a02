//! Lanes: everything that queues has one queue per priority, so that what somebody waits for never stands behind a batch. What is bounded is
//! bounded per lane; a lane without work costs nothing.

use muster_wire::http::Priority;

/// One of something for each priority.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lanes<T> {
    high: T,
    normal: T,
    low: T,
}

impl<T> Lanes<T> {
    /// Every lane, the most urgent first.
    pub(crate) const ORDER: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

    pub(crate) fn of(&self, priority: Priority) -> &T {
        match priority {
            Priority::High => &self.high,
            Priority::Normal => &self.normal,
            Priority::Low => &self.low,
        }
    }

    /// The most urgent first.
    pub(crate) fn all(&self) -> [&T; 3] {
        [&self.high, &self.normal, &self.low]
    }

    pub(crate) fn into_all(self) -> [T; 3] {
        [self.high, self.normal, self.low]
    }
}

/// A sender and a receiver for each lane.
pub(crate) fn channels<T>(capacity: usize) -> (Lanes<tokio::sync::mpsc::Sender<T>>, Lanes<tokio::sync::mpsc::Receiver<T>>) {
    let [high, normal, low] = std::array::from_fn(|_| tokio::sync::mpsc::channel(capacity));
    (Lanes { high: high.0, normal: normal.0, low: low.0 }, Lanes { high: high.1, normal: normal.1, low: low.1 })
}

/// The receiving end of all lanes as one queue: the most urgent first.
pub(crate) struct Queue<T>(Lanes<tokio::sync::mpsc::Receiver<T>>);

impl<T> Queue<T> {
    pub(crate) fn new(lanes: Lanes<tokio::sync::mpsc::Receiver<T>>) -> Self {
        Self(lanes)
    }

    /// The next one; `None` when every lane is closed and empty.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        let Lanes { high, normal, low } = &mut self.0;
        tokio::select! {
            biased;
            Some(item) = high.recv() => Some(item),
            Some(item) = normal.recv() => Some(item),
            Some(item) = low.recv() => Some(item),
            else => None,
        }
    }

    /// The next one, if one is there.
    pub(crate) fn try_recv(&mut self) -> Option<T> {
        let Lanes { high, normal, low } = &mut self.0;
        [high, normal, low].into_iter().find_map(|lane| lane.try_recv().ok())
    }

    /// Takes nothing more in.
    pub(crate) fn close(&mut self) {
        self.0.high.close();
        self.0.normal.close();
        self.0.low.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_urgent_comes_first_and_nothing_is_lost() {
        let (senders, receivers) = channels(10);
        let mut queue = Queue::new(receivers);
        for (priority, item) in [(Priority::Low, 1), (Priority::Low, 2), (Priority::Normal, 3), (Priority::High, 4)] {
            senders.of(priority).send(item).await.expect("open");
        }
        assert_eq!((queue.recv().await, queue.try_recv(), queue.recv().await), (Some(4), Some(3), Some(1)));
        queue.close();
        assert!(senders.of(Priority::High).send(5).await.is_err(), "closed");
        assert_eq!((queue.recv().await, queue.recv().await, queue.try_recv()), (Some(2), None, None));
    }
}
