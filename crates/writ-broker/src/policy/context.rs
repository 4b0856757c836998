//! The circumstances of a question, as Cedar's context.

use cedar_policy::{Context as Facts, ContextCreationError, RestrictedExpression};
use writ_core::{Context, Level, Principal, Timestamp};

use crate::config::When;

/// What policies may look at. `windows` are the time windows of the slice: those that are open are named in the context.
pub(super) fn facts(
    principal: &Principal,
    context: &Context,
    windows: &[When],
) -> Result<Facts, Box<ContextCreationError>> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let open = windows.iter().filter(|window| window.holds(context.now)).map(|window| text(window.as_str()));
    let (level, rank) = match context.level {
        Level::Advisory => ("advisory", 0),
        Level::Restricted => ("restricted", 1),
        Level::Confined => ("confined", 2),
    };
    let mut pairs = vec![
        ("now".to_owned(), now(context.now)?),
        ("windows".to_owned(), RestrictedExpression::new_set(open)),
        ("level".to_owned(), text(level)),
        ("level_rank".to_owned(), RestrictedExpression::new_long(rank)),
        ("requester".to_owned(), text(&context.requester)),
        ("session".to_owned(), text(&principal.session.to_string())),
    ];
    if let Some(hash) = &context.prompt_sha256 {
        pairs.push(("prompt_sha256".to_owned(), text(hash)));
    }
    Facts::from_pairs(pairs).map_err(Box::new)
}

/// The parts of the instant in UTC. An instant outside the calendar has the nearest one's parts.
fn now(now: Timestamp) -> Result<RestrictedExpression, Box<ContextCreationError>> {
    let nearest = if now.millis() < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    let instant = jiff::Timestamp::from_millisecond(now.millis()).unwrap_or(nearest);
    let civil = jiff::tz::TimeZone::UTC.to_datetime(instant);
    let weekday = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        .get(usize::from(civil.weekday().to_monday_zero_offset().unsigned_abs()))
        .copied()
        .unwrap_or_default();
    let number = |name: &str, value: i64| (name.to_owned(), RestrictedExpression::new_long(value));
    RestrictedExpression::new_record([
        number("millis", now.millis()),
        number("year", civil.year().into()),
        number("month", civil.month().into()),
        number("day", civil.day().into()),
        ("weekday".to_owned(), RestrictedExpression::new_string(weekday.to_owned())),
        number("hour", civil.hour().into()),
        number("minute", civil.minute().into()),
    ])
    .map_err(|fault| Box::new(fault.into()))
}
