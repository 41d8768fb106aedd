package client;

import static client.Requests.amount;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import java.util.List;

/** Calls a running service in every way there is, and compares each answer with the contract. */
public final class Main {
    private static final String USAGE = """
            usage: wallet-client <target> [--unthrottled | --without-scope <token>]
              <target>                 grpc.target of stack.json, such as 127.0.0.1:8081
              --unthrottled            the service runs with RATE_LIMIT=off
              --without-scope <token>  it runs with DEPOSIT_SCOPE: only see that this token may not deposit""";

    private Main() {}

    public static void main(String[] given) {
        List<String> arguments = List.of(given);
        boolean isUnthrottled = arguments.size() == 2 && arguments.get(1).equals("--unthrottled");
        boolean isScoped = arguments.size() == 3 && arguments.get(1).equals("--without-scope");
        if (arguments.size() != 1 && !isUnthrottled && !isScoped) {
            System.err.println(USAGE);
            System.exit(2);
        }
        ManagedChannel channel =
                Grpc.newChannelBuilder(arguments.get(0), InsecureChannelCredentials.create()).build();
        try {
            if (isScoped) {
                forbidden(Caller.of(channel, "Bearer " + arguments.get(2)));
            } else {
                everything(channel, isUnthrottled);
            }
            System.out.println("ok");
        } catch (Surprise | StatusRuntimeException surprise) {
            // Of a connection that fails the rest is a stack.
            System.err.println("not as the contract says: " + surprise.getMessage().lines().findFirst().orElse(""));
            System.exit(1);
        } finally {
            channel.shutdownNow();
        }
    }

    private static void everything(ManagedChannel channel, boolean isUnthrottled) {
        Standards.check(channel);
        Users users = Users.fresh(channel);
        new Money(users).check();
        new Refusals(channel, users).check();
        if (!isUnthrottled) {
            Limits.check(users.caller(5));
        }
    }

    private static void forbidden(Caller caller) {
        Answer<?> answer = caller.ask(stub -> stub.deposit(amount(1)));
        Report.refused("a deposit without its scope", answer, Code.PERMISSION_DENIED, "forbidden");
    }
}
