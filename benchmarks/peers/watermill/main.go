// Watermill's forwarder: its SQL subscriber reads the outbox, its Kafka publisher sends what it read.
//
//	relay DSN BOOTSTRAP_SERVERS FORWARDER_TOPIC POLL_INTERVAL BATCH_SIZE
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The metadata entry that holds a message's key.
const partitionKey = "key"

func main() {
	dsn, brokers, topic := os.Args[1], os.Args[2], os.Args[3]
	pollInterval := must(time.ParseDuration(os.Args[4]))
	batchSize := must(strconv.Atoi(os.Args[5]))

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	pool := must(pgxpool.New(ctx, dsn))
	defer pool.Close()

	logger := watermill.NewStdLogger(false, false)
	relay := must(forwarder.NewForwarder(
		must(subscriber(pool, pollInterval, batchSize, logger)),
		must(publisher(brokers, logger)),
		logger,
		forwarder.Config{ForwarderTopic: topic},
	))
	check(relay.Run(ctx))
}

func subscriber(
	pool *pgxpool.Pool, pollInterval time.Duration, batchSize int, logger watermill.LoggerAdapter,
) (message.Subscriber, error) {
	return sql.NewSubscriber(sql.BeginnerFromPgx(pool), sql.SubscriberConfig{
		SchemaAdapter:    sql.DefaultPostgreSQLSchema{SubscribeBatchSize: batchSize},
		OffsetsAdapter:   sql.DefaultPostgreSQLOffsetsAdapter{},
		PollInterval:     pollInterval,
		InitializeSchema: true,
	}, logger)
}

func publisher(brokers string, logger watermill.LoggerAdapter) (message.Publisher, error) {
	settings := kafka.DefaultSaramaSyncPublisherConfig()
	// As durable as everybody else here.
	settings.Producer.RequiredAcks = sarama.WaitForAll
	return kafka.NewPublisher(kafka.PublisherConfig{
		Brokers:               []string{brokers},
		Marshaler:             kafka.NewWithPartitioningMarshaler(key),
		OverwriteSaramaConfig: settings,
	}, logger)
}

func key(_ string, message *message.Message) (string, error) {
	return message.Metadata.Get(partitionKey), nil
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
