package client;

import io.grpc.Channel;
import java.util.concurrent.ThreadLocalRandom;

/** Users that nobody else has: what they own can be reckoned, and their limits are untouched. */
record Users(Channel channel, long first) {
    private static final long FEWEST = 1L << 40;
    private static final int APART = 16;

    static Users fresh(Channel channel) {
        return new Users(channel, ThreadLocalRandom.current().nextLong(FEWEST, FEWEST << 10) * APART);
    }

    long id(int number) {
        return first + number;
    }

    Caller caller(int number) {
        return Caller.of(channel, Long.toString(id(number)));
    }
}
