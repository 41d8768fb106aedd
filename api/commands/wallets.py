"""``flask wallets``: open one, look at one, freeze one."""

import click
import orjson
from flask.cli import AppGroup

from api.commands.acting import acting, name_in_record
from api.commands.conclusion import concludes, examples
from api.commands.layout import facts_of, show_facts, show_table
from api.commands.parameters import CENTS, ID, Key
from api.contract.checking import MAX_KEY_LENGTH
from api.contract.fields import MAX_PAGE_SIZE
from api.contract.freezes import WalletOut
from api.contract.wallets import TransactionOut
from api.running import services
from models.ledger.freezes import MAX_REASON, Change
from models.ledger.import_file import Opening
from models.ledger.imports import Imports
from models.ledger.statements import Statements

# Opening a user's wallet happens once, unless somebody gives it another name.
OPENING_KEY = "wallets open"

commands = AppGroup("wallets", help="Open a wallet, look at one, freeze one.")


@commands.command(
    "open",
    epilog=examples(
        "Examples:",
        "  flask wallets open 7 --amount 10000     # with 100.00",
        "  flask wallets open 8                    # empty",
        "",
        "Exit status: 0 open now, or opened by the same command before; 1 refused, or a fault; 2 wrong usage.",
    ),
)
@click.argument("user_id", type=ID)
@click.option("--amount", type=CENTS, default=0, show_default=True, help="Cents to deposit at once.")
@click.option(
    "--idempotency-key",
    type=Key(MAX_KEY_LENGTH),
    default=OPENING_KEY,
    help="What makes a repetition one; there is a default.",
)
@concludes
def open_command(user_id: int, amount: int, idempotency_key: str) -> None:
    """Open a wallet for USER_ID, with money in it: a deposit in the ledger, like any other.

    A user who has a wallet is refused, and nothing moves. To repeat the command is safe: it moves nothing twice.
    """
    imports = Imports(services().engine, services().snowflake)
    with acting("wallet.open", on=str(user_id)) as act:
        opened = imports.run([Opening(user_id, amount)], key=idempotency_key)
        act.note(changed=not opened.replayed)
    click.echo(
        f"user {user_id}: {'opened before, nothing moved' if opened.replayed else f'opened with {amount} cents'}"
    )


@commands.command(
    "show",
    epilog=examples(
        "Examples:",
        "  flask wallets show 1",
        "  flask wallets show 1 --entries 0 --json | jq .balance",
        "",
        "Exit status: 0 shown; 1 no such wallet, or a fault; 2 wrong usage.",
    ),
)
@click.argument("user_id", type=ID)
@click.option(
    "--entries",
    type=click.IntRange(0, MAX_PAGE_SIZE),
    default=10,
    show_default=True,
    help="How many of the newest entries.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, with the API's names and spellings.")
@concludes
def show_command(user_id: int, entries: int, *, as_json: bool) -> None:
    """Show the wallet of USER_ID: balance in cents, number of entries, when it was opened, its newest entries."""
    wallet = WalletOut.of(Statements(services().engine).get_wallet(user_id, newest=entries))
    if as_json:
        click.echo(orjson.dumps(facts_of(wallet)))
        return
    facts = facts_of(wallet)
    del facts["transactions"]
    show_facts(facts)
    if wallet.transactions:
        click.echo()
        show_table([*TransactionOut.model_fields], [[*facts_of(each).values()] for each in wallet.transactions])


@commands.command(
    "freeze",
    epilog=examples(
        "Examples:",
        "  flask wallets freeze 7 --debits --reason 'court order 17/2026'",
        "  flask wallets freeze 7 --debits --credits --reason 'account taken over'",
        "",
        "Exit status: 0 frozen now, or before; 1 no such wallet, or a fault; 2 wrong usage.",
    ),
)
@click.argument("user_id", type=ID)
@click.option("--debits", is_flag=True, help="No money leaves it.")
@click.option("--credits", "credits_", is_flag=True, help="No money comes.")
@click.option("--reason", type=Key(MAX_REASON), required=True, help="Why; administrators see it.")
@concludes
def freeze_command(user_id: int, reason: str, *, debits: bool, credits_: bool) -> None:
    """Freeze sides of the wallet of USER_ID: what is not named stays as it is. Administrators' reversals go on."""
    if not (debits or credits_):
        raise click.UsageError("name --debits, --credits, or both")
    with acting("wallet.freeze", on=str(user_id)) as act:
        wanted = Change(debits=debits or None, credits=credits_ or None, reason=reason, by=name_in_record())
        changed = services().freezes.change(user_id, wanted)
        act.note(changed=changed)
    click.echo(f"user {user_id}: {'frozen' if changed else 'frozen before'}")


@commands.command(
    "unfreeze",
    epilog=examples(
        "Examples:",
        "  flask wallets unfreeze 7",
        "  flask wallets unfreeze 7 --credits --reason 'may be paid again'",
        "",
        "Exit status: 0 let go now, or before; 1 no such wallet, or a fault; 2 wrong usage.",
    ),
)
@click.argument("user_id", type=ID)
@click.option("--debits", is_flag=True, help="Money may leave it.")
@click.option("--credits", "credits_", is_flag=True, help="Money may come.")
@click.option("--reason", type=Key(MAX_REASON), help="Why; administrators see it.")
@concludes
def unfreeze_command(user_id: int, reason: str | None, *, debits: bool, credits_: bool) -> None:
    """Let sides of the wallet of USER_ID go: both, if none is named."""
    sides = (debits, credits_) if debits or credits_ else (True, True)
    with acting("wallet.unfreeze", on=str(user_id)) as act:
        let_go = [False if side else None for side in sides]
        wanted = Change(debits=let_go[0], credits=let_go[1], reason=reason, by=name_in_record())
        changed = services().freezes.change(user_id, wanted)
        act.note(changed=changed)
    click.echo(f"user {user_id}: {'let go' if changed else 'not frozen'}")
