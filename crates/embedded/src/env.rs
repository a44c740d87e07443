//! Everything that is not determined by the input comes in here: time, random numbers, new identifiers.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use model::name::Uuid;
use model::units::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// The engine's clock and source of randomness. With [`Env::seeded`] the same test is the same test.
pub struct Env {
    random: Mutex<StdRng>,
    /// A clock that stands still except when asked: each reading is one microsecond later.
    fixed: Option<Mutex<i64>>,
}

impl Env {
    /// The machine's clock and randomness.
    pub fn system() -> Self {
        Self { random: Mutex::new(StdRng::from_os_rng()), fixed: None }
    }

    /// Randomness from a seed, and a clock that starts at `start` seconds and gains a microsecond at each reading.
    pub fn seeded(seed: u64, start: i64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { random, fixed: Some(Mutex::new(start * 1_000_000)) }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        match &self.fixed {
            Some(clock) => {
                let mut micros = clock.lock().expect("no code panics while holding the clock");
                *micros += 1;
                Timestamp::from_micros(*micros)
            }
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
                Timestamp::from_micros(micros)
            }
        }
    }

    /// Now in seconds, as `ctime` and `mtime` are kept.
    pub fn now_seconds(&self) -> f64 {
        self.now().as_seconds()
    }

    /// A new random UUID.
    pub fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        Uuid::new(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
    }

    /// Random bytes.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.random.lock().expect("no code panics while holding the randomness").fill_bytes(bytes);
    }

    /// A random number below `limit`, which is not 0.
    pub fn below(&self, limit: u64) -> u64 {
        let mut random = self.random.lock().expect("no code panics while holding the randomness");
        random.random_range(0..limit.max(1))
    }
}
