package client;

import io.grpc.Status.Code;

/** One line for each check; the first that fails ends it all. */
final class Report {
    private Report() {}

    static void check(String what, boolean holds, Object seen) {
        if (!holds) {
            throw new Surprise(what + ": " + seen);
        }
        System.out.println(what);
    }

    static void refused(String what, Answer<?> answer, Code code, String errorCode) {
        check(errorCode + ": " + what, answer.isRefused(code, errorCode), answer);
    }
}
