#include "npy.hpp"

#include "arguments.hpp"
#include "files.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace programs {
namespace {

constexpr std::size_t kHeaderStart = 10;
const std::string kMagic("\x93NUMPY", 6);
// Of ZIP: what a reader must know, and in place of a number that stands in a Zip64 field.
constexpr std::uint64_t kPlainVersion = 20;
constexpr std::uint64_t kZip64Version = 45;
constexpr std::uint64_t kElsewhere = 0xffffffff;
// Headers and directory of a few arrays.
constexpr std::size_t kMaxHeads = 4096;

std::string npy_file(const char *type, const void *values, std::size_t value_bytes,
                     const Shape &shape) {
    std::size_t count = 1;
    std::string sizes;
    for (const std::size_t size : shape) {
        count *= size;
        sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
    }
    sizes += shape.size() == 1 ? "," : "";
    std::string header = std::string("{'descr': '") + type +
                         "', 'fortran_order': False, 'shape': (" + sizes + "), }";
    // Readers map the values in place where they start at a multiple of 64.
    while ((kHeaderStart + header.size() + 1) % 64 != 0) {
        header += ' ';
    }
    header += '\n';
    std::string bytes = kMagic + std::string("\x01\x00", 2);
    bytes.reserve(kHeaderStart + header.size() + count * value_bytes);
    bytes += static_cast<char>(header.size() & 0xff);
    bytes += static_cast<char>(header.size() >> 8);
    bytes += header;
    return bytes.append(static_cast<const char *>(values), count * value_bytes);
}

std::uint32_t crc32(const std::string &bytes) {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t index = 0; index < 256; ++index) {
        std::uint32_t value = index;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value & 1) != 0 ? 0xedb88320U ^ (value >> 1) : value >> 1;
        }
        table[index] = value;
    }
    std::uint32_t crc = 0xffffffffU;
    for (const char c : bytes) {
        crc = table[(crc ^ static_cast<unsigned char>(c)) & 0xff] ^ (crc >> 8);
    }
    return ~crc;
}

void put(std::string &bytes, std::uint64_t value, int num_bytes) {
    for (int i = 0; i < num_bytes; ++i) {
        bytes += static_cast<char>(value >> (8 * i) & 0xff);
    }
}

// A file of an archive.
struct Entry {
    std::string name;
    std::uint32_t crc = 0;
    std::uint64_t size = 0;
    std::uint64_t start = 0;
    bool is_large = false; // its numbers are in a Zip64 field
};

// The fields that a file's own header and the archive's directory share. num_large: how many
// numbers of 64 bits a large one has.
void put_entry(std::string &bytes, const Entry &entry, int num_large) {
    put(bytes, entry.is_large ? kZip64Version : kPlainVersion, 2);
    put(bytes, 0, 4); // flags; method: stored
    // Midnight of 1 January 1980, so that equal arrays give equal files.
    put(bytes, 0, 2);
    put(bytes, 0x21, 2);
    put(bytes, entry.crc, 4);
    put(bytes, entry.is_large ? kElsewhere : entry.size, 4);
    put(bytes, entry.is_large ? kElsewhere : entry.size, 4);
    put(bytes, entry.name.size(), 2);
    put(bytes, entry.is_large ? 4 + 8 * num_large : 0, 2);
}

void put_large(std::string &bytes, const Entry &entry, const std::vector<std::uint64_t> &numbers) {
    if (!entry.is_large) {
        return;
    }
    put(bytes, 1, 2); // Zip64
    put(bytes, 8 * numbers.size(), 2);
    for (const std::uint64_t number : numbers) {
        put(bytes, number, 8);
    }
}

void put_in_directory(std::string &bytes, const Entry &entry) {
    put(bytes, 0x02014b50, 4);
    put(bytes, entry.is_large ? kZip64Version : kPlainVersion, 2);
    put_entry(bytes, entry, 3);
    put(bytes, 0, 8); // no comment, first disk, no attributes
    put(bytes, 0, 2);
    put(bytes, entry.is_large ? kElsewhere : entry.start, 4);
    bytes += entry.name;
    put_large(bytes, entry, {entry.size, entry.size, entry.start});
}

// Where a directory that does not fit the plain end is.
void put_large_end(std::string &bytes, std::size_t num_entries, std::uint64_t start) {
    const std::uint64_t end = bytes.size();
    put(bytes, 0x06064b50, 4);
    put(bytes, 44, 8); // what follows
    put(bytes, kZip64Version, 2);
    put(bytes, kZip64Version, 2);
    put(bytes, 0, 8); // disks
    put(bytes, num_entries, 8);
    put(bytes, num_entries, 8);
    put(bytes, end - start, 8);
    put(bytes, start, 8);
    put(bytes, 0x07064b50, 4);
    put(bytes, 0, 4);
    put(bytes, end, 8);
    put(bytes, 1, 4); // disks
}

// The text between two marks of the header.
std::string between(const std::string &text, const std::string &start, char end,
                    const std::string &path) {
    const std::size_t from = text.find(start);
    const std::size_t to = from == std::string::npos ? from : text.find(end, from + start.size());
    if (to == std::string::npos) {
        throw UsageError(path + ": is not a .npy file; save one with numpy.save");
    }
    return text.substr(from + start.size(), to - from - start.size());
}

Shape parsed_shape(const std::string &text, const std::string &path) {
    Shape shape;
    std::size_t value = 0;
    bool in_number = false;
    for (const char c : text + ",") {
        if (c >= '0' && c <= '9' && value < (std::size_t{1} << 40)) {
            value = value * 10 + static_cast<std::size_t>(c - '0');
            in_number = true;
        } else if (c == ',' && in_number) {
            shape.push_back(value);
            value = 0;
            in_number = false;
        } else if (c != ' ' && c != ',') {
            throw UsageError(path + ": has no usable shape (" + text + ")");
        }
    }
    return shape;
}

} // namespace

std::string npy_bytes(const float *values, const Shape &shape) {
    return npy_file("<f4", values, sizeof *values, shape);
}

std::string npy_bytes(const std::int64_t *values, const Shape &shape) {
    return npy_file("<i8", values, sizeof *values, shape);
}

std::string npz_bytes(const std::vector<std::pair<std::string, std::string>> &arrays,
                      std::uint64_t plain_limit) {
    std::string bytes;
    std::string directory;
    std::size_t num_bytes = kMaxHeads;
    for (const auto &[name, content] : arrays) {
        num_bytes += content.size();
    }
    bytes.reserve(num_bytes);
    for (const auto &[name, content] : arrays) {
        Entry entry{name + ".npy", crc32(content), content.size(), bytes.size(), false};
        entry.is_large = std::max(entry.size, entry.start) >= plain_limit;
        put_in_directory(directory, entry);
        put(bytes, 0x04034b50, 4);
        put_entry(bytes, entry, 2);
        bytes += entry.name;
        put_large(bytes, entry, {entry.size, entry.size});
        bytes += content;
    }
    const std::uint64_t start = bytes.size();
    const bool is_large = start >= plain_limit;
    bytes += directory;
    if (is_large) {
        put_large_end(bytes, arrays.size(), start);
    }
    put(bytes, 0x06054b50, 4);
    put(bytes, 0, 4);
    put(bytes, arrays.size(), 2);
    put(bytes, arrays.size(), 2);
    put(bytes, directory.size(), 4);
    put(bytes, is_large ? kElsewhere : start, 4);
    put(bytes, 0, 2);
    return bytes;
}

std::vector<float> read_npy(const std::string &path, Shape &shape) {
    const std::string bytes = read_file(path);
    if (bytes.size() < kHeaderStart + 2 || bytes.compare(0, kMagic.size(), kMagic) != 0) {
        throw UsageError(path + ": is not a .npy file; save one with numpy.save");
    }
    const auto byte = [&bytes](std::size_t at) {
        return std::size_t{static_cast<unsigned char>(bytes[at])};
    };
    // Version 1 gives the header's length in two bytes, later ones in four.
    const bool is_long = bytes[6] > 1;
    std::size_t length = byte(8) | byte(9) << 8;
    if (is_long) {
        length |= byte(10) << 16 | byte(11) << 24;
    }
    const std::size_t start = kHeaderStart + (is_long ? 2 : 0);
    if (length > bytes.size() - start) {
        throw UsageError(path + ": is cut short");
    }
    const std::string header = bytes.substr(start, length);
    const std::string type = between(header, "'descr': '", '\'', path);
    if (type != "<f4" || between(header, "'fortran_order': ", ',', path) != "False") {
        throw UsageError(path + ": holds " + type + ", but float32 in C order is needed");
    }
    shape = parsed_shape(between(header, "'shape': (", ')', path), path);
    std::vector<float> values((bytes.size() - start - length) / sizeof(float));
    std::size_t count = 1;
    for (const std::size_t size : shape) {
        // Compared by division: a product of hostile sizes would wrap around.
        count = size != 0 && count > values.size() / size ? values.size() + 1 : count * size;
    }
    if (count != values.size() || (bytes.size() - start - length) % sizeof(float) != 0) {
        throw UsageError(path + ": is cut short or longer than its shape");
    }
    std::memcpy(values.data(), bytes.data() + start + length, values.size() * sizeof(float));
    return values;
}

} // namespace programs
