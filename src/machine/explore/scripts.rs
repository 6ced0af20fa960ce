//! What operators do, in every story.

use super::Word;
use super::world::{A, B};
use crate::machine::event::{Order, Signal};
use crate::machine::message::Supersede;

#[expect(clippy::too_many_lines, reason = "a list")]
pub(super) fn scripts() -> Vec<(&'static str, Vec<Word>)> {
    use Signal::{Hup, Int, Quit, Term, Usr2, Winch};
    let upgrade = || {
        Word::Order(Order::Upgrade {
            hold: false,
            current: false,
            end_oldest: false,
            supersede: None,
        })
    };
    let hold = || Word::Signal(A, Usr2);
    let order = |o: Order| Word::Order(o);
    let supersede = || {
        Word::Order(Order::Upgrade {
            hold: false,
            current: false,
            end_oldest: false,
            supersede: Some(Supersede {
                id: "2".into(),
                hold: false,
                probation_ms: None,
                release: false,
            }),
        })
    };
    let a = |s: Signal| Word::Signal(A, s);
    let b = |s: Signal| Word::Signal(B, s);
    vec![
        ("upgrade", vec![upgrade()]),
        ("upgrade, commit", vec![upgrade(), order(Order::Commit)]),
        (
            "upgrade, rollback",
            vec![upgrade(), order(Order::Rollback { nothing: None })],
        ),
        (
            "upgrade, rollback, upgrade",
            vec![
                upgrade(),
                order(Order::Rollback { nothing: None }),
                upgrade(),
            ],
        ),
        ("upgrade, supersede", vec![upgrade(), supersede()]),
        ("upgrade, reload", vec![upgrade(), order(Order::Reload)]),
        ("upgrade, stop", vec![upgrade(), order(Order::Stop)]),
        ("upgrade, HUP to the old", vec![upgrade(), a(Hup)]),
        ("upgrade, QUIT to the old", vec![upgrade(), a(Quit)]),
        ("upgrade, TERM to the new", vec![upgrade(), b(Term)]),
        ("upgrade, QUIT to the new", vec![upgrade(), b(Quit)]),
        ("upgrade, INT to the new", vec![upgrade(), b(Int)]),
        ("upgrade, TERM to everybody", vec![upgrade(), Word::TermAll]),
        ("USR2", vec![hold()]),
        (
            "USR2, WINCH, QUIT: forward",
            vec![hold(), a(Winch), a(Quit)],
        ),
        ("USR2, QUIT", vec![hold(), a(Quit)]),
        (
            "back",
            vec![hold(), a(Winch), a(Hup), b(Usr2), b(Winch), b(Quit)],
        ),
        ("back and forward", vec![hold(), a(Winch), a(Hup), a(Winch)]),
        ("USR2, QUIT to the new", vec![hold(), b(Quit)]),
        (
            "new one stops accepting, old one drains",
            vec![hold(), b(Usr2), a(Winch)],
        ),
        (
            "new one drains, old one leaves",
            vec![hold(), b(Winch), a(Quit)],
        ),
        ("USR2, commit", vec![hold(), order(Order::Commit)]),
        (
            "USR2, rollback",
            vec![hold(), order(Order::Rollback { nothing: None })],
        ),
        (
            "USR2, WINCH, rollback",
            vec![hold(), a(Winch), order(Order::Rollback { nothing: None })],
        ),
        ("USR2, TERM to everybody", vec![hold(), Word::TermAll]),
        (
            "USR2, WINCH, TERM to everybody",
            vec![hold(), a(Winch), Word::TermAll],
        ),
        ("USR2, stop", vec![hold(), order(Order::Stop)]),
        ("USR2, INT to the old", vec![hold(), a(Int)]),
        ("rollback", vec![order(Order::Rollback { nothing: None })]),
        (
            "rollback, rollback",
            vec![
                order(Order::Rollback { nothing: None }),
                order(Order::Rollback { nothing: None }),
            ],
        ),
        ("upgrade, upgrade", vec![upgrade(), upgrade()]),
        ("upgrade, HUP to the new", vec![upgrade(), b(Hup)]),
        ("upgrade, TERM to the old", vec![upgrade(), a(Term)]),
        (
            "upgrade, reload, rollback",
            vec![
                upgrade(),
                order(Order::Reload),
                order(Order::Rollback { nothing: None }),
            ],
        ),
        ("stop, stop", vec![order(Order::Stop), order(Order::Stop)]),
        (
            "reload, stop",
            vec![order(Order::Reload), order(Order::Stop)],
        ),
        // nginx's documentation, "Upgrading Executable on the Fly".
        (
            "USR2, WINCH, HUP, QUIT to the new",
            vec![hold(), a(Winch), a(Hup), b(Quit)],
        ),
        ("USR2, QUIT to the new, USR2", vec![hold(), b(Quit), hold()]),
        (
            "USR2, WINCH, TERM to the new",
            vec![hold(), a(Winch), b(Term)],
        ),
        (
            "USR2, WINCH, HUP, commit",
            vec![hold(), a(Winch), a(Hup), order(Order::Commit)],
        ),
        (
            "USR2, WINCH, HUP, supersede",
            vec![hold(), a(Winch), a(Hup), supersede()],
        ),
        (
            "USR2, WINCH, HUP, stop",
            vec![hold(), a(Winch), a(Hup), order(Order::Stop)],
        ),
        (
            "USR2, WINCH, HUP, TERM to everybody",
            vec![hold(), a(Winch), a(Hup), Word::TermAll],
        ),
        (
            "USR2, HUP and WINCH to the new",
            vec![hold(), b(Hup), b(Winch)],
        ),
        (
            "USR2, WINCH, reload, HUP",
            vec![hold(), a(Winch), order(Order::Reload), a(Hup)],
        ),
    ]
}
