import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Java's HttpClient, which reads its own key store and no variable. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        String body = "{\"model\":\"gpt-standin\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}";
        HttpRequest request = HttpRequest.newBuilder(URI.create("https://api.openai.com/v1/chat/completions"))
                .header("Authorization", "Bearer " + System.getenv("OPENAI_API_KEY"))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body))
                .build();
        HttpResponse<String> answer =
                HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        Matcher content = Pattern.compile("\"content\":\"([^\"]*)\"").matcher(answer.body());
        System.out.println(answer.statusCode() + " " + (content.find() ? content.group(1) : answer.body()));
    }
}
