package client;

import static client.Requests.BALANCE;
import static client.Requests.amount;
import static client.Requests.entries;
import static client.Requests.job;
import static client.Requests.pay;

import com.google.protobuf.UnknownFieldSet;
import io.grpc.Channel;
import io.grpc.Metadata;
import io.grpc.Status.Code;
import wallet.v1.Wallet.AmountRequest;
import wallet.v1.Wallet.MoneyReply;

/** Every error of the contract that a call can be answered with, but for those of a service in trouble. */
final class Refusals {
    private static final int MAX_KEY_LENGTH = 255;
    /** More than MAX_BODY_BYTES is by default, and less than gRPC itself refuses. */
    private static final int LARGE_BYTES = 20_000;

    private final Channel channel;
    private final Users users;
    private final Caller owner;
    private final Caller stranger;

    Refusals(Channel channel, Users users) {
        this.channel = channel;
        this.users = users;
        owner = users.caller(2);
        stranger = users.caller(3);
    }

    void check() {
        MoneyReply opened = owner.ask(stub -> stub.deposit(amount(100))).ok();
        badInput();
        amounts();
        unauthorized();
        notFound(opened.getTransferId());
        refusedMovements();
        overflow();
        reusedKeys();
        long left = owner.ask(stub -> stub.getBalance(BALANCE)).ok().getBalance();
        Report.check("nothing that was refused has moved anything", left == 100, left);
    }

    private void badInput() {
        var known = UnknownFieldSet.Field.newBuilder().addVarint(1).build();
        var unknown = UnknownFieldSet.newBuilder().addField(99, known).build();
        AmountRequest more = amount(1).toBuilder().setUnknownFields(unknown).build();
        invalid("an unknown field", owner.ask(stub -> stub.deposit(more)));
        AmountRequest tedious = amount(1).toBuilder().setReference("7".repeat(65)).build();
        invalid("a reference too long", owner.ask(stub -> stub.deposit(tedious)));
        invalid("no payee", owner.ask(stub -> stub.transfer(pay(0, 1))));
        invalid("a page too large", owner.ask(stub -> stub.listTransactions(entries(101).build())));
        invalid("no such type", owner.ask(stub -> stub.listTransactions(entries(1).setType(4).build())));
        invalid("no cursor", owner.ask(stub -> stub.listTransactions(entries(1).setCursor("x").build())));
        Caller wordy = owner.with("idempotency-key", "k".repeat(MAX_KEY_LENGTH + 1));
        invalid("a key too long", wordy.ask(stub -> stub.deposit(amount(1))));
        AmountRequest large = amount(1).toBuilder().setDescription("x".repeat(LARGE_BYTES)).build();
        Answer<?> answer = owner.ask(stub -> stub.deposit(large));
        Report.refused("a message of " + LARGE_BYTES + " bytes", answer, Code.INVALID_ARGUMENT, "payload_too_large");
    }

    private static void invalid(String what, Answer<?> answer) {
        Report.refused(what, answer, Code.INVALID_ARGUMENT, "bad_input");
    }

    private void amounts() {
        for (long cents : new long[] {0, -1, Long.MIN_VALUE}) {
            Answer<?> answer = owner.ask(stub -> stub.withdraw(amount(cents)));
            Report.refused(cents + " cents", answer, Code.INVALID_ARGUMENT, "invalid_amount");
        }
    }

    private void unauthorized() {
        Answer<?> nobody = new Caller(channel, new Metadata()).ask(stub -> stub.getBalance(BALANCE));
        Report.refused("no credentials", nobody, Code.UNAUTHENTICATED, "unauthorized");
        Answer<?> liar = Caller.of(channel, "Bearer nonsense").ask(stub -> stub.deposit(amount(1)));
        Report.refused("bad credentials", liar, Code.UNAUTHENTICATED, "unauthorized");
    }

    private void notFound(long jobId) {
        notFound("to read a balance", stranger.ask(stub -> stub.getBalance(BALANCE)), "wallet_not_found");
        Answer<?> history = stranger.ask(stub -> stub.listTransactions(entries(1).build()));
        notFound("to read a history", history, "wallet_not_found");
        notFound("to withdraw", stranger.ask(stub -> stub.withdraw(amount(1))), "wallet_not_found");
        notFound("to be paid", owner.ask(stub -> stub.transfer(pay(users.id(3), 1))), "wallet_not_found");
        notFound("to be paid later", owner.ask(stub -> stub.enqueueTransfer(pay(users.id(3), 1))), "wallet_not_found");
        notFound("to look for", owner.ask(stub -> stub.getJob(job(1))), "job_not_found");
        notFound("to look for, of others", stranger.ask(stub -> stub.getJob(job(jobId))), "job_not_found");
        notFound("to watch", stranger.watch(jobId), "job_not_found");
    }

    private static void notFound(String what, Answer<?> answer, String code) {
        Report.refused(what, answer, Code.NOT_FOUND, code);
    }

    private void refusedMovements() {
        for (int payee : new int[] {1, 2}) {
            String code = payee == 2 ? "self_transfer_invalid" : "balance_insufficient";
            no("Transfer", owner.ask(stub -> stub.transfer(pay(users.id(payee), 101))), code);
            no("EnqueueTransfer", owner.ask(stub -> stub.enqueueTransfer(pay(users.id(payee), 101))), code);
        }
        no("Withdraw", owner.ask(stub -> stub.withdraw(amount(101))), "balance_insufficient");
    }

    private void overflow() {
        Caller rich = users.caller(4);
        rich.ask(stub -> stub.deposit(amount(Long.MAX_VALUE))).ok();
        no("Deposit", rich.ask(stub -> stub.deposit(amount(1))), "balance_overflow");
        no("Transfer", owner.ask(stub -> stub.transfer(pay(users.id(4), 1))), "balance_overflow");
        rich.ask(stub -> stub.withdraw(amount(Long.MAX_VALUE))).ok();
    }

    private void reusedKeys() {
        Caller once = owner.with("idempotency-key", "once");
        once.ask(stub -> stub.deposit(amount(7))).ok();
        no("another amount", once.ask(stub -> stub.deposit(amount(8))), "idempotency_key_reused");
        no("another call", once.ask(stub -> stub.withdraw(amount(7))), "idempotency_key_reused");
        Caller later = owner.with("idempotency-key", "later");
        no("too little for it", later.ask(stub -> stub.withdraw(amount(108))), "balance_insufficient");
        later.ask(stub -> stub.withdraw(amount(7))).ok();
        Report.check("a refused call binds no key", true, null);
    }

    private static void no(String what, Answer<?> answer, String code) {
        Report.refused(what, answer, Code.FAILED_PRECONDITION, code);
    }
}
