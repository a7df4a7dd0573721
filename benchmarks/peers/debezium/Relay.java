import io.debezium.embedded.Connect;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.DebeziumEngine.RecordCommitter;
import io.debezium.engine.RecordChangeEvent;
import io.debezium.engine.format.ChangeEventFormat;
import java.io.FileReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.connect.header.Header;
import org.apache.kafka.connect.source.SourceRecord;

/**
 * Debezium's embedded engine with its outbox event router. What it hands over goes to Kafka, and is marked as processed
 * when Kafka has acknowledged the whole batch.
 *
 * <p>{@code Relay ENGINE_PROPERTIES PRODUCER_PROPERTIES}
 */
public final class Relay implements DebeziumEngine.ChangeConsumer<RecordChangeEvent<SourceRecord>> {

    private final KafkaProducer<byte[], byte[]> producer;

    private Relay(Properties settings) {
        producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    }

    public static void main(String[] arguments) throws Exception {
        var engine = DebeziumEngine.create(ChangeEventFormat.of(Connect.class))
                .using(read(arguments[0]))
                .notifying(new Relay(read(arguments[1])))
                .using((success, message, error) -> {
                    if (!success) {
                        System.err.println(message);
                        Runtime.getRuntime().halt(1);
                    }
                })
                .build();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> close(engine)));
        engine.run();
    }

    @Override
    public void handleBatch(
            List<RecordChangeEvent<SourceRecord>> events, RecordCommitter<RecordChangeEvent<SourceRecord>> committer)
            throws InterruptedException {
        List<Future<RecordMetadata>> sent = new ArrayList<>(events.size());
        for (var event : events) {
            sent.add(producer.send(message(event.record())));
        }
        for (var acknowledgement : sent) {
            await(acknowledgement);
        }
        for (var event : events) {
            committer.markProcessed(event);
        }
        committer.markBatchFinished();
    }

    private static ProducerRecord<byte[], byte[]> message(SourceRecord record) {
        var message = new ProducerRecord<>(record.topic(), bytes(record.key()), bytes(record.value()));
        for (Header header : record.headers()) {
            message.headers().add(header.key(), bytes(header.value()));
        }
        return message;
    }

    private static byte[] bytes(Object text) {
        return text.toString().getBytes(StandardCharsets.UTF_8);
    }

    private static void await(Future<RecordMetadata> acknowledgement) throws InterruptedException {
        try {
            acknowledgement.get();
        } catch (ExecutionException error) {
            throw new IllegalStateException("Kafka did not take a record", error.getCause());
        }
    }

    private static Properties read(String file) throws Exception {
        var properties = new Properties();
        try (var reader = new FileReader(file, StandardCharsets.UTF_8)) {
            properties.load(reader);
        }
        return properties;
    }

    private static void close(DebeziumEngine<?> engine) {
        try {
            engine.close();
        } catch (Exception error) {
            System.err.println(error);
        }
    }
}
