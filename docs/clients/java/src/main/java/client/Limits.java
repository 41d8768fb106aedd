package client;

import static client.Requests.BALANCE;
import static client.Requests.amount;

import io.grpc.Status.Code;
import java.util.List;
import java.util.stream.IntStream;

/** A user asks too often. */
final class Limits {
    /** At once: more would meet gRPC's own bound on calls, which has no error-code. */
    private static final int AT_ONCE = 8;
    private static final int MOST_CALLS = 20_000;

    private Limits() {}

    static void check(Caller hasty) {
        Answer<?> first = hasty.ask(stub -> stub.deposit(amount(1)));
        first.ok();
        boolean told = first.header("ratelimit") != null && first.header("ratelimit-policy") != null;
        Report.check("ratelimit, ratelimit-policy: come with an answer", told, first);
        Answer<?> refused = exhaust(hasty);
        Report.refused("too many calls of one user", refused, Code.RESOURCE_EXHAUSTED, "rate_limited");
        boolean says = isSeconds(refused.header("retry-after")) && isSeconds(refused.trailer("retry-after"));
        Report.check("retry-after: before and after a refusal", says, refused);
    }

    /** Ask until refused. */
    private static Answer<?> exhaust(Caller hasty) {
        for (int calls = 0; calls < MOST_CALLS; calls += AT_ONCE) {
            List<Answer<?>> answers = IntStream.range(0, AT_ONCE).parallel()
                    .<Answer<?>>mapToObj(each -> hasty.ask(stub -> stub.getBalance(BALANCE)))
                    .toList();
            for (Answer<?> answer : answers) {
                if (!answer.status().isOk()) {
                    return answer;
                }
            }
        }
        throw new Surprise("not limited after " + MOST_CALLS + " calls");
    }

    private static boolean isSeconds(String value) {
        return value != null && value.matches("[1-9][0-9]*");
    }
}
