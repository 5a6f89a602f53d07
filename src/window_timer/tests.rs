//! Who is woken, when, and how often. None of these tests depends on how fast
//! the machine is: what is late is no failure here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Count {
    fn new() -> (Arc<Self>, Waker) {
        let count = Arc::new(Self::default());
        (Arc::clone(&count), Waker::from(count))
    }

    fn woken(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A queue, and whom it has woken.
#[derive(Default)]
struct Line {
    queue: Queue,
    standing: Vec<(&'static str, Waker)>,
}

impl Line {
    fn stand(&mut self, name: &'static str, deadline: Instant) -> (Place, bool) {
        let (_, waker) = Count::new();
        self.standing.push((name, waker.clone()));
        let place = self.queue.place(deadline);
        (place, self.queue.put(place, waker))
    }

    /// The names of those who are due, as they are woken.
    fn due(&mut self, now: Instant) -> Vec<&'static str> {
        let name = |waker: Waker| {
            let mut standing = self.standing.iter();
            standing.find(|(_, own)| own.will_wake(&waker)).unwrap().0
        };
        std::iter::from_fn(|| self.queue.take_due(now))
            .map(name)
            .collect()
    }
}

#[test]
fn whoever_is_due_first_is_woken_first() {
    let (mut line, start) = (Line::default(), Instant::now());
    line.stand("third", start + ms(3));
    line.stand("first", start + ms(1));
    line.stand("second", start + ms(2));
    line.stand("fourth", start + ms(4));
    assert_eq!(line.due(start), [""; 0]);
    assert_eq!(line.due(start + ms(3)), ["first", "second", "third"]);
    assert_eq!(line.due(start + ms(3)), [""; 0], "woken once");
    assert_eq!(line.queue.first(), Some(start + ms(4)));
}

#[test]
fn those_of_one_moment_are_woken_together_in_the_order_they_came() {
    let (mut line, due) = (Line::default(), Instant::now());
    line.stand("first", due);
    line.stand("second", due);
    line.stand("later", due + Duration::from_nanos(1));
    line.stand("third", due);
    assert_eq!(line.due(due), ["first", "second", "third"]);
}

#[test]
fn only_a_sooner_deadline_moves_the_timer() {
    let (mut line, start) = (Line::default(), Instant::now());
    assert!(line.stand("the only one", start + ms(5)).1);
    assert!(!line.stand("a later one", start + ms(6)).1);
    assert!(!line.stand("one of the same moment", start + ms(5)).1);
    let (place, sooner) = line.stand("a sooner one", start + ms(4));
    assert!(sooner);
    let (_, waker) = Count::new();
    assert!(!line.queue.put(place, waker), "only another waker");
}

#[test]
fn whoever_leaves_is_not_woken_and_leaves_nothing_behind() {
    let (mut line, due) = (Line::default(), Instant::now());
    let places: Vec<_> = (0..1000).map(|_| line.stand("gone", due).0).collect();
    line.stand("stays", due);
    for place in places {
        line.queue.leave(place);
    }
    assert_eq!(line.due(due), ["stays"]);
    assert_eq!(line.queue.first(), None);
}

/// What a timer is set earlier by for a window of 50 ms.
fn ahead(lateness: &Lateness) -> Duration {
    ms(50) - lateness.ahead_of(ms(50)).unwrap()
}

#[test]
fn a_timer_is_set_earlier_by_what_wakes_are_late_by() {
    let (mut lateness, us) = (Lateness::default(), Duration::from_micros);
    assert_eq!(ahead(&lateness), Duration::ZERO, "nothing is known yet");
    (0..200).for_each(|_| lateness.observe(us(80)));
    assert!((us(79)..=us(80)).contains(&ahead(&lateness)));
    lateness.observe(ms(400));
    assert!(ahead(&lateness) <= us(95), "one alone is hardly believed");
    lateness.observe(us(30));
    assert_eq!(ahead(&lateness), us(30), "one that was less late is");
}

#[test]
fn a_busy_workers_lateness_is_believed_up_to_a_bound() {
    let (mut lateness, most) = (Lateness::default(), Duration::from_micros(200));
    (0..1000).for_each(|_| lateness.observe(ms(20)));
    assert!(ahead(&lateness) <= most);
    // No wait that is left after having been early is longer.
    assert_eq!(lateness.ahead_of(most), None);
}

#[tokio::test(start_paused = true)]
async fn an_alarm_that_nobody_keeps_goes_by_tokios_clock() {
    let (alarm, start) = (Alarm::default(), Instant::now());
    alarm.at(start + HOUR).await;
    assert_eq!(start.elapsed(), HOUR);
}

#[cfg(target_os = "linux")]
mod kept {
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// An alarm that is kept until it is dropped, and then by nobody.
    struct World {
        alarm: Arc<Alarm>,
        kept: JoinHandle<()>,
        end: CancellationToken,
    }

    impl World {
        async fn new() -> Self {
            let (alarm, end) = (Arc::new(Alarm::default()), CancellationToken::new());
            let (own, ended) = (Arc::clone(&alarm), end.clone());
            let kept = tokio::spawn(async move {
                tokio::select! {
                    _ = own.keep() => {}
                    () = ended.cancelled() => {}
                }
            });
            while alarm.lock().timer.is_none() {
                tokio::task::yield_now().await;
            }
            Self { alarm, kept, end }
        }

        fn waiting(&self) -> bool {
            self.alarm.lock().queue.first().is_some()
        }

        /// Waits in a task of its own; says by how much it was late.
        fn wait(&self, length: Duration) -> JoinHandle<Duration> {
            let (alarm, deadline) = (Arc::clone(&self.alarm), Instant::now() + length);
            tokio::spawn(async move {
                alarm.at(deadline).await;
                let late = Instant::now().checked_duration_since(deadline);
                late.expect("woken early")
            })
        }
    }

    #[tokio::test]
    async fn nobody_is_woken_early_and_everybody_is_woken() {
        let world = World::new().await;
        let lengths = (0..300).map(|n| Duration::from_micros(n * 7919 % 20_000));
        let waits: Vec<_> = lengths.map(|length| world.wait(length)).collect();
        for wait in waits {
            wait.await.unwrap();
        }
        assert!(!world.waiting());
    }

    #[tokio::test]
    async fn a_timer_is_set_earlier_by_what_those_before_it_were_late_by() {
        let world = World::new().await;
        let known = || ahead(&world.alarm.lock().lateness);
        // Where the machine takes longer than that to begin, nobody waits.
        for _ in 0..100 {
            if known().is_zero() {
                world.wait(ms(2)).await.unwrap();
            }
        }
        assert!(!known().is_zero(), "it learns nothing");
        let hour = world.wait(HOUR);
        while !world.waiting() {
            tokio::task::yield_now().await;
        }
        let set_for = world.alarm.lock().set_for.unwrap();
        let deadline = world.alarm.lock().queue.first().unwrap();
        assert_eq!(deadline - set_for, known());
        // Too early by far: what is left is waited for, or that one would say so.
        (0..1000).for_each(|_| world.alarm.lock().lateness.observe(ms(20)));
        world.wait(ms(5)).await.unwrap();
        hour.abort();
    }

    #[tokio::test]
    async fn a_sooner_deadline_sets_the_timer_anew() {
        let world = World::new().await;
        let hour = world.wait(HOUR);
        while !world.waiting() {
            tokio::task::yield_now().await;
        }
        world.wait(ms(2)).await.unwrap();
        world.wait(ms(1)).await.unwrap();
        assert!(!hour.is_finished());
        hour.abort();
        assert!(hour.await.unwrap_err().is_cancelled());
        assert!(!world.waiting(), "an entry was left behind");
    }

    #[tokio::test]
    async fn a_first_one_that_leaves_holds_nobody_up() {
        let world = World::new().await;
        let (alarm, start) = (&world.alarm, Instant::now());
        tokio::select! {
            biased;
            () = alarm.at(start + ms(5)) => {}
            // It leaves with the timer set for it.
            () = tokio::task::yield_now() => {}
        }
        world.wait(ms(10)).await.unwrap();
    }

    #[tokio::test]
    async fn each_is_woken_once() {
        let world = World::new().await;
        let (count, waker) = Count::new();
        let deadline = Instant::now() + ms(2);
        let mut waiting = Waiting {
            alarm: &world.alarm,
            deadline,
            place: None,
        };
        let mut poll = || Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker));
        // Where the machine took longer than that, nobody need be woken.
        let asleep = poll().is_pending();
        let asleep = asleep && poll().is_pending();
        // The alarm goes on ringing for others.
        for length in [3, 4, 5] {
            world.wait(ms(length)).await.unwrap();
        }
        assert!(count.woken() <= 1);
        assert!(!asleep || count.woken() == 1);
        assert!(poll().is_ready());
    }

    #[tokio::test]
    async fn those_who_wait_when_it_is_kept_no_longer_go_by_tokios_clock() {
        let world = World::new().await;
        let wait = world.wait(ms(20));
        tokio::task::yield_now().await;
        world.end.cancel();
        world.kept.await.unwrap();
        assert!(world.alarm.lock().timer.is_none());
        wait.await.unwrap();
        assert!(world.alarm.lock().queue.first().is_none());
    }

    /// Somebody who waited before is not forgotten by the next who keeps it.
    #[tokio::test]
    async fn an_alarm_may_be_kept_again() {
        let world = World::new().await;
        world.end.cancel();
        world.kept.await.unwrap();
        let alarm = &world.alarm;
        let deadline = Instant::now() + ms(5);
        tokio::select! {
            _ = alarm.keep() => {}
            () = alarm.at(deadline) => {}
        }
        assert!(Instant::now() >= deadline);
    }

    #[tokio::test]
    async fn a_running_gateway_keeps_its_alarm() {
        let mut config = crate::config::Config::default();
        config.server.listen = "127.0.0.1:0".parse().unwrap();
        config.server.admin = "127.0.0.1:0".parse().unwrap();
        let app = crate::app::App::bind(config, crate::upstream::Dial::Tcp).unwrap();
        let app = app.single_worker();
        let gateway = app.gateway().clone();
        let alarm = gateway.front().proxy.upstream.alarm();
        let kept = async {
            while alarm.lock().timer.is_none() {
                tokio::task::yield_now().await;
            }
        };
        app.run_until(kept).await.unwrap();
        while alarm.lock().timer.is_some() {
            tokio::task::yield_now().await;
        }
    }
}
