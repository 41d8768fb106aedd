package client;

import static client.Requests.BALANCE;
import static client.Requests.amount;
import static client.Requests.entries;
import static client.Requests.job;
import static client.Requests.pay;

import io.grpc.Status.Code;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import wallet.v1.Wallet.Job;
import wallet.v1.Wallet.MoneyReply;
import wallet.v1.Wallet.Transaction;
import wallet.v1.Wallet.TransactionPage;
import wallet.v1.Wallet.TransactionsRequest;

/** Every way to move money, once and again, and what is told of it afterwards. */
final class Money {
    /** How often to ask again for a job whose stream has ended with UNAVAILABLE. */
    private static final int TRIES = 20;
    private static final long LAST_DEADLINE_MS = 60_000;

    private final Caller payer;
    private final Caller payee;
    private final long payerId;
    private final long payeeId;

    Money(Users users) {
        payer = users.caller(0);
        payee = users.caller(1);
        payerId = users.id(0);
        payeeId = users.id(1);
    }

    void check() {
        MoneyReply opened = payer.ask(stub -> stub.deposit(amount(1_000))).ok();
        Report.check("Deposit: opens a wallet", opened.getBalance() == 1_000 && opened.getTransferId() > 0, opened);
        payee.ask(stub -> stub.deposit(amount(50))).ok();
        MoneyReply left = payer.ask(stub -> stub.withdraw(amount(100))).ok();
        Report.check("Withdraw: 1000 - 100 = 900", left.getBalance() == 900, left);
        MoneyReply paid = payer.ask(stub -> stub.transfer(pay(payeeId, 200))).ok();
        Report.check("Transfer: 900 - 200 = 700", paid.getBalance() == 700, paid);
        look(paid);
        long jobId = enqueue();
        balances(400, 550);
        replays(jobId);
        lateAnswer();
        balances(390, 560);
        pages();
        traces();
    }

    private void look(MoneyReply paid) {
        Job job = payee.ask(stub -> stub.getJob(job(paid.getTransferId()))).ok();
        boolean same = job.getStatus().equals("posted") && job.getAmount() == 200
                && job.getSourceUserId() == payerId && job.getDestinationUserId() == payeeId;
        Report.check("GetJob: a transfer is a job, its payee may see it", same && !job.getCompletedAt().isEmpty(), job);
    }

    private long enqueue() {
        Caller once = payer.with("idempotency-key", "enqueue");
        Answer<Job> accepted = once.ask(stub -> stub.enqueueTransfer(pay(payeeId, 300)));
        Job job = accepted.ok();
        Report.check("EnqueueTransfer: a job, not a replay", job.getJobId() > 0 && !accepted.isReplay(), accepted);
        List<Job> told = watch(job.getJobId());
        Job last = told.get(told.size() - 1);
        Report.check("WatchJob: ends with posted", last.getStatus().equals("posted"), told);
        Report.check("WatchJob: tells of this job only", told.stream().allMatch(each -> same(each, job)), told);
        Job looked = payer.ask(stub -> stub.getJob(job(job.getJobId()))).ok();
        Report.check("GetJob: says the same as the stream's end", looked.equals(last), looked);
        Answer<List<Job>> again = payee.watch(job.getJobId());
        Report.check("WatchJob: of a final job it says one thing", again.ok().equals(List.of(last)), again);
        return job.getJobId();
    }

    private boolean same(Job each, Job job) {
        return each.getJobId() == job.getJobId() && each.getAmount() == 300;
    }

    /** Follow a job to its end, also when the service has no seat left, or is being reloaded. */
    private List<Job> watch(long jobId) {
        for (int attempt = 0; attempt < TRIES; attempt++) {
            Answer<List<Job>> told = payer.watch(jobId);
            if (told.status().getCode() != Code.UNAVAILABLE) {
                return told.ok();
            }
            told.waitAsTold();
        }
        throw new Surprise("no seat for a watcher in " + TRIES + " tries");
    }

    private void replays(long jobId) {
        Caller once = payer.with("idempotency-key", "enqueue");
        Answer<Job> again = once.ask(stub -> stub.enqueueTransfer(pay(payeeId, 300)));
        Report.check("EnqueueTransfer: a replay", again.isReplay() && again.ok().getJobId() == jobId, again);
        Caller twice = payer.with("idempotency-key", UUID.randomUUID().toString());
        Answer<MoneyReply> first = twice.ask(stub -> stub.deposit(amount(20)));
        Report.check("Deposit: not a replay", !first.isReplay() && first.ok().getBalance() == 420, first);
        payer.ask(stub -> stub.withdraw(amount(20))).ok();
        Answer<MoneyReply> replay = twice.ask(stub -> stub.deposit(amount(20)));
        boolean same = replay.isReplay() && replay.ok().equals(first.ok());
        Report.check("Deposit: a replay gives the first answer", same, replay);
    }

    /** A passed deadline undoes nothing: the same key tells what has become of it. */
    private void lateAnswer() {
        Caller once = payer.with("idempotency-key", "late");
        Answer<MoneyReply> answer;
        long deadlineMs = 1;
        do {
            answer = once.ask(stub -> stub.transfer(pay(payeeId, 10)), deadlineMs);
            deadlineMs *= 2;
        } while (isLate(answer) && deadlineMs <= LAST_DEADLINE_MS);
        Report.check("Transfer: repeated until the answer came in time", answer.ok().getBalance() == 390, answer);
    }

    /** Whether the deadline has passed, or would have before it was done, so that it was not begun. */
    private static boolean isLate(Answer<?> answer) {
        Code code = answer.status().getCode();
        return code == Code.DEADLINE_EXCEEDED || code == Code.UNAVAILABLE;
    }

    private void balances(long payerCents, long payeeCents) {
        long payers = payer.ask(stub -> stub.getBalance(BALANCE)).ok().getBalance();
        Report.check("GetBalance: the payer's " + payerCents, payers == payerCents, payers);
        long payees = payee.ask(stub -> stub.getBalance(BALANCE)).ok().getBalance();
        Report.check("GetBalance: the payee's " + payeeCents, payees == payeeCents, payees);
    }

    private void pages() {
        List<Transaction> all = page(entries(100)).getTransactionsList();
        long sum = all.stream().mapToLong(Transaction::getAmount).sum();
        Report.check("ListTransactions: 7 entries, which make 390", all.size() == 7 && sum == 390, all);
        List<Transaction> byPage = new ArrayList<>();
        List<Transaction> byCursor = new ArrayList<>();
        String cursor = "";
        for (int number = 1; number <= 4; number++) {
            TransactionPage page = page(entries(2).setPage(number));
            TransactionPage next = page(entries(2).setCursor(cursor));
            Report.check("ListTransactions: page " + number, page.getHasMore() == number < 4, page);
            byPage.addAll(page.getTransactionsList());
            byCursor.addAll(next.getTransactionsList());
            cursor = next.getNextCursor();
        }
        Report.check("ListTransactions: the same by pages", byPage.equals(all), byPage);
        Report.check("ListTransactions: the same by cursor", byCursor.equals(all) && cursor.isEmpty(), byCursor);
        List<Transaction> withdrawn = page(entries(100).setType(2)).getTransactionsList();
        Report.check("ListTransactions: 2 withdrawals", withdrawn.size() == 2, withdrawn);
    }

    private TransactionPage page(TransactionsRequest.Builder request) {
        return payer.ask(stub -> stub.listTransactions(request.build())).ok();
    }

    private void traces() {
        String trace = UUID.randomUUID().toString().replace("-", "");
        Caller traced = payer.with("traceparent", "00-" + trace + "-00f067aa0ba902b7-01").with("x-request-id", "mine");
        Answer<?> answer = traced.ask(stub -> stub.getBalance(BALANCE));
        String told = String.valueOf(answer.header("traceparent"));
        Report.check("traceparent: the caller's trace goes on", told.startsWith("00-" + trace + "-"), answer);
        Report.check("x-request-id: comes back", "mine".equals(answer.header("x-request-id")), answer);
    }
}
