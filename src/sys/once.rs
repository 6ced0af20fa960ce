//! A condition that lasts is said once, and at its end how often it was met: nothing logs in a loop.

/// One condition.
#[derive(Debug, Default)]
pub struct Once {
    times: u64,
}

impl Once {
    /// It is met; whether to say so.
    pub fn again(&mut self) -> bool {
        self.times += 1;
        self.times == 1
    }

    /// It is met: something fails, and is tried again.
    pub fn failed(&mut self, what: impl std::fmt::Display, why: &dyn std::fmt::Display) {
        if self.again() {
            tracing::error!("{what}: {why}; it is tried again");
        }
    }

    /// It is not met any longer. Says how often it was, if that was more than what was said.
    pub fn over(&mut self, what: impl std::fmt::Display) {
        let times = std::mem::take(&mut self.times);
        if times > 1 {
            tracing::info!("{what}: that was so {times} times, and is over");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_said_once_and_counted() {
        let mut once = Once::default();
        assert_eq!(
            [once.again(), once.again(), once.again()],
            [true, false, false]
        );
        assert_eq!(once.times, 3);
        once.over("a test");
        assert!(once.again(), "it is another time");
    }
}
