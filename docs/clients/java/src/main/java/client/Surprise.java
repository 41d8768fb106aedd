package client;

/** Something that the contract does not say. */
final class Surprise extends RuntimeException {
    Surprise(String what) {
        super(what);
    }
}
